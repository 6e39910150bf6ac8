"""The stage of one scenario: its servers, its clients, its publishers, the ledger, and the verdict at the end."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import hiredis
import httpx
import msgspec
from notify_client import AsyncPublisher

from gateway.errors import Unavailable
from gateway.store.connect import redis_client
from gateway.store.log import Log
from gateway.store.log import Publication as Words
from tests.faults.clients import FOLLOWERS, Follower, Transport
from tests.faults.oracle import Ledger, Outcome, Publication, Verdict, judge
from tests.faults.proxy import Proxy
from tests.faults.servers import Gateway, RedisServer, Sentinel

Send = Callable[[Words], Any]
"""Sends one event: returns its id; raises ``Refused``; whatever else it raises leaves the outcome unknown."""

SHORT_SLACK = 4  # the short round runs on machines that do other things besides: the times of the table are for --full

EVERY_TRANSPORT: tuple[Transport, ...] = ("ws", "ws", "ws", "sse", "sse", "poll")


class Refused(Exception):
    """Redis or the gateway said no: nothing was recorded."""


class Stage:
    """See the module.

    Attributes:
        rng: all chance comes from here
        full: whether the sizes are those of the design's table, or small ones
        figures: what was measured, with its limit
    """

    def __init__(self, folder: Path, seed: int, stack: AsyncExitStack, *, full: bool) -> None:
        self.folder = folder
        self.seed = seed
        self.full = full
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self.followers: list[Follower] = []
        self.gateways: list[Gateway] = []
        self.addresses: list[str] = []
        self.figures: dict[str, str] = {}
        self._stack = stack
        self._sends: dict[str, Send] = {}

    def size(self, short: int, full: int) -> int:
        return full if self.full else short

    def figure(self, name: str, value: float, most: float, unit: str = "s") -> None:
        """Note what was measured; fail if it is more than allowed. In the short round a time may be ``SHORT_SLACK`` times that."""
        most = most if self.full or unit != "s" else most * SHORT_SLACK
        self.figures[name] = f"{value:.2f} {unit} (at most {most:g})"
        assert value <= most, f"{name}: {value:.2f} {unit}, at most {most:g} are allowed"

    # Servers

    async def redis(
        self, name: str = "redis", *, aof: bool = False, arguments: Sequence[str] = (), program: str | None = None
    ) -> RedisServer:
        server = RedisServer(self.folder, name, aof=aof, arguments=tuple(arguments), program=program)
        self._stack.push_async_callback(server.close)
        await server.start()
        return server

    async def sentinel(self, master: RedisServer, name: str = "sentinel", **options: Any) -> Sentinel:
        sentinel = Sentinel(self.folder, name, **options)
        self._stack.push_async_callback(sentinel.close)
        await sentinel.start(master)
        return sentinel

    async def gateway(self, redis_url: str, *, wait: bool = True, serving: bool = True, **options: Any) -> Gateway:
        """A gateway; ``serving`` says whether clients know of it already."""
        gateway = Gateway(self.folder, f"gateway{len(self.gateways)}", redis_url, quick=not self.full, **options)
        self.gateways.append(gateway)
        self._stack.callback(gateway.kill)
        await gateway.start(wait=wait)
        if serving:
            self.addresses.append(address(gateway))
        return gateway

    async def proxy(self, target: int) -> Proxy:
        return await self._stack.enter_async_context(Proxy(target))

    # Clients

    def follow(
        self,
        count: int,
        channels: Callable[[int], Mapping[str, str]],
        transports: Sequence[Transport] = ("ws",),
        gateways: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Follower]:
        """Start so many clients; ``channels`` says what the i-th follows and from where."""
        started = []
        for i in range(count):
            kind = transports[i % len(transports)]
            name = f"{kind}-{len(self.followers)}"
            addresses = self.addresses if gateways is None else gateways
            follower = FOLLOWERS[kind](name, addresses, channels(i), seed=self.seed, **options)
            self.followers.append(follower)
            self._stack.push_async_callback(follower.stop)
            follower.start()
            started.append(follower)
        return started

    async def all_ready(self, followers: Sequence[Follower] | None = None, within: float = 60.0) -> None:
        """Wait until all have been told that they follow."""
        async with asyncio.timeout(within):
            for follower in self.followers if followers is None else followers:
                await follower.ready.wait()

    # Publishing

    def function(self, redis_url: str) -> Send:
        """Publish as ``gateway publish`` does: by the function, loaded if Redis has lost it."""
        if redis_url not in self._sends:
            client = redis_client(redis_url, 16)
            self._stack.push_async_callback(client.aclose)
            log = Log(client)

            async def send(words: Words) -> str:
                result = (await log.append([words]))[0]
                if isinstance(result, str):
                    return result
                if isinstance(result, Unavailable):
                    raise Refused(result.detail)
                raise result

            self._sends[redis_url] = send
        return self._sends[redis_url]

    async def pipelined(self, redis: RedisServer) -> Send:
        """Publish by the function over one connection, without waiting for the answers: a Redis that hangs finds all when it wakes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
        waiting: deque[asyncio.Future[Any]] = deque()

        async def answers() -> None:
            parser = hiredis.Reader()
            while chunk := await reader.read(65_536):
                parser.feed(chunk)
                while (answer := parser.gets()) is not False:
                    waiting.popleft().set_result(answer)

        reading = asyncio.ensure_future(answers())
        self._stack.callback(writer.close)
        self._stack.callback(reading.cancel)

        async def send(words: Words) -> str:
            waiting.append(asyncio.get_running_loop().create_future())
            command: Any = ("FCALL", "notify_publish", 1, *words.arguments())
            writer.write(hiredis.pack_command(command))
            answer = await waiting[-1]
            if isinstance(answer, Exception):
                raise Refused(answer)
            return str(answer.decode())

        return send

    def library(self, redis_url: str) -> Send:
        """Publish with our Python client, as a worker does. It says nothing of why it drops an event."""
        name = f"library {redis_url}"
        if name not in self._sends:
            publisher = AsyncPublisher(redis_url)
            self._stack.push_async_callback(publisher.close)  # again, for what the first could not close in its short time
            self._stack.push_async_callback(publisher.close)

            async def send(words: Words) -> str:
                event = msgspec.json.decode(words.json)
                id = await publisher.publish(
                    words.channel, event["type"], event["data"], key=words.key, keep=words.keep, ttl=words.ttl, collapse=words.collapse
                )
                if id is None:
                    raise OSError("dropped")
                return id

            self._sends[name] = send
        return self._sends[name]

    def http(self, addresses: Sequence[str] | None = None) -> Send:
        """Publish by ``POST /publish`` to any of the gateways."""
        client = httpx.AsyncClient(timeout=5)
        self._stack.push_async_callback(client.aclose)
        hosts = self.addresses if addresses is None else addresses

        async def send(words: Words) -> str:
            event = msgspec.json.decode(words.json)
            options = {"key": words.key, "keep": words.keep, "ttl": words.ttl, "collapse": words.collapse}
            body = event | {"channel": words.channel} | {name: value for name, value in options.items() if value is not None}
            answer = await client.post(f"http://{self.rng.choice(list(hosts))}/publish", json=body)
            if answer.status_code == 200:
                return str(answer.json()["ids"][words.channel])
            if answer.status_code == 503 and "Redis refused" in answer.json()["detail"]:
                raise Refused(answer.text)
            assert answer.status_code == 503, f"{answer.status_code} {answer.text}"
            raise OSError(answer.text)

        return send

    async def publish(
        self,
        send: Send,
        channel: str,
        *,
        label: str | None = None,
        size: int = 0,
        retry: float = 0.0,
        keep: int | None = None,
        ttl: int | None = None,
    ) -> Publication:
        """Publish one event and note how it went.

        Args:
            send: the way in
            channel: where to
            label: of COLLAPSE
            size: bytes of ballast in its data
            retry: with an idempotency key, seconds to go on trying until it is acknowledged; 0 for one try without a key
            keep: events of the log
            ttl: seconds of the log
        """
        publication = self.ledger.begin(channel, label)
        data = {"n": publication.number, "t": time.monotonic()} | ({"x": "x" * size} if size else {})
        json = msgspec.json.encode({"type": "progress", "data": data})
        words = Words(channel, json, f"{publication.number}" if retry else None, keep, ttl, label)
        deadline = time.monotonic() + retry
        while True:
            try:
                publication.acknowledge(int(await send(words)))
            except Refused:
                if time.monotonic() > deadline:
                    publication.refuse()
                    return publication
            except (OSError, Unavailable, httpx.HTTPError):
                if time.monotonic() > deadline:
                    return publication
            else:
                return publication
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def load(
        self, sends: Sequence[Send], channels: Sequence[str], rate: float, *, labels: float = 0.0, workers: int = 8, **options: Any
    ) -> AsyncIterator[None]:
        """Publish on channels drawn by chance, so many a second, while entered. ``labels`` is the share that collapses.

        So many workers each wait for their event's answer: with enough of them a Redis that hangs slows nobody.
        """
        free = asyncio.Semaphore(workers)
        under_way: set[asyncio.Task[None]] = set()

        async def work() -> None:
            label = "progress" if self.rng.random() < labels else None
            try:
                await self.publish(self.rng.choice(sends), self.rng.choice(channels), label=label, **options)
            finally:
                free.release()

        async def pace() -> None:
            started = time.monotonic()
            for begun in itertools.count():
                await asyncio.sleep(max(0.0, started + begun / rate - time.monotonic()))
                await free.acquire()
                task = asyncio.ensure_future(work())
                under_way.add(task)
                task.add_done_callback(check)

        def check(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is None:
                under_way.discard(task)  # one that has failed stays, to be raised at the end

        pacing = asyncio.ensure_future(pace())
        try:
            yield
        finally:
            pacing.cancel()
            async with asyncio.timeout(90):
                await asyncio.gather(*under_way)

    # The end

    async def caught_up(
        self, send: Send, within: float, *, since: float | None = None, followers: Sequence[Follower] | None = None
    ) -> float:
        """Publish a last event on each channel and wait until every client has it.

        Returns:
            seconds since ``since`` (a ``time.monotonic``; the moment of the call if not given)
        """
        since = time.monotonic() if since is None else since
        waiting = [(f, c) for f in (self.followers if followers is None else followers) for c in f.log.channels]
        channels = sorted({channel for _, channel in waiting})
        marks: dict[str, int] = {}
        for channel in channels:
            mark = await self.publish(send, channel, retry=30, keep=10_000)
            assert mark.outcome == "acknowledged", f"nothing can be published on {channel}: {mark}"
            marks[channel] = mark.id
        while waiting := [(f, c) for f, c in waiting if not f.has(c, marks[c])]:
            if time.monotonic() - since > within * SHORT_SLACK + 20:
                follower, channel = waiting[0]
                tail = "\n".join(f"  {line}" for line in follower.log.lines[-12:])
                raise AssertionError(f"{len(waiting)} cursors are behind, one is {follower.name} on {channel}:\n{tail}")
            await asyncio.sleep(0.01)
        taken = time.monotonic() - since
        self.figure("caught up", taken, within)
        return taken

    def verdict(self, *, gaps: int | None = 0) -> Verdict:
        """Judge all clients. ``gaps`` is how many there may be, ``None`` for any number that can be accounted for."""
        verdict = judge(self.ledger, [follower.log for follower in self.followers])
        outcomes: list[Outcome] = ["acknowledged", "refused", "unknown"]
        self.figures["oracle"] = f"{verdict}; " + ", ".join(f"{self.ledger.count(o)} {o}" for o in outcomes)
        assert not verdict.faults, f"{verdict}\n" + "\n".join(verdict.faults)
        assert gaps is None or verdict.gaps <= gaps, f"{verdict.gaps} gaps, at most {gaps} can be: {verdict}"
        for gateway in self.gateways:
            assert "Traceback" not in gateway.output(), gateway.output()[-4000:]
        return verdict


def address(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


@asynccontextmanager
async def open_stage(folder: Path, seed: int, *, full: bool) -> AsyncIterator[Stage]:
    """A stage that is cleared when left, whatever has happened on it."""
    async with AsyncExitStack() as stack:
        stage = Stage(folder, seed, stack, full=full)
        yield stage
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.gather(*(follower.stop() for follower in stage.followers))
