"""The stage of one fault scenario: starts its servers, clients and publishers, keeps the ledger, and gives the verdict at the end."""

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
from gateway.store.client import redis_client
from gateway.store.log import Log
from gateway.store.log import Publication as Words
from tests.faults.clients import FOLLOWERS, Follower, Transport
from tests.faults.oracle import Ledger, Outcome, Publication, Verdict, judge
from tests.faults.proxy import Proxy
from tests.faults.servers import Gateway, RedisServer, Sentinel

Send = Callable[[Words], Any]
"""Publishes one event and returns its id. Raises ``Refused`` if it was not recorded; any other error leaves that unknown."""

SHORT_SLACK = 4  # factor on time limits without --full, because the short round runs on machines that are busy with other tests

EVERY_TRANSPORT: tuple[Transport, ...] = ("ws", "ws", "ws", "sse", "sse", "poll")


class Refused(Exception):
    """Redis or the gateway refused an event: it was not recorded."""


class Stage:
    """What one scenario has at its disposal. All that it starts is stopped at the end.

    Attributes:
        stack: closes at the end what the scenario has opened
        rng: the source of all random choices, so that a seed repeats them
        full: whether the sizes and time limits are those of docs/guarantees.md, or small ones
        addresses: ``host:port`` of the gateways that clients connect to
        figures: measurements by name, each with its limit
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
        self.stack = stack
        self._sends: dict[str, Send] = {}

    def size(self, short: int, full: int) -> int:
        return full if self.full else short

    def figure(self, name: str, value: float, most: float, unit: str = "s") -> None:
        """Note a measurement, and fail if it exceeds its limit; without ``--full`` a time may be ``SHORT_SLACK`` times as long."""
        most = most if self.full or unit != "s" else most * SHORT_SLACK
        self.figures[name] = f"{value:.2f} {unit} (at most {most:g})"
        assert value <= most, f"{name}: {value:.2f} {unit}, at most {most:g} are allowed"

    # Servers

    async def redis(
        self, name: str = "redis", *, aof: bool = False, arguments: Sequence[str] = (), program: str | None = None
    ) -> RedisServer:
        server = RedisServer(self.folder, name, aof=aof, arguments=tuple(arguments), program=program)
        self.stack.push_async_callback(server.close)
        await server.start()
        return server

    async def sentinel(self, master: RedisServer, name: str = "sentinel", **options: Any) -> Sentinel:
        sentinel = Sentinel(self.folder, name, **options)
        self.stack.push_async_callback(sentinel.close)
        await sentinel.start(master)
        return sentinel

    async def gateway(self, redis_url: str, *, wait: bool = True, serving: bool = True, **options: Any) -> Gateway:
        """Start a gateway; unless ``serving``, clients do not connect to it yet."""
        gateway = Gateway(self.folder, f"gateway{len(self.gateways)}", redis_url, quick=not self.full, **options)
        self.gateways.append(gateway)
        self.stack.callback(gateway.kill)
        await gateway.start(wait=wait)
        if serving:
            self.addresses.append(address(gateway))
        return gateway

    async def proxy(self, target: int) -> Proxy:
        return await self.stack.enter_async_context(Proxy(target))

    # Clients

    def follow(
        self,
        count: int,
        channels: Callable[[int], Mapping[str, str]],
        transports: Sequence[Transport] = ("ws",),
        gateways: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Follower]:
        """Start clients.

        Args:
            channels: gives the channels of the i-th client, each with where it begins
            transports: taken in turn
            gateways: their addresses; ``self.addresses`` unless given
        """
        started = []
        for i in range(count):
            kind = transports[i % len(transports)]
            name = f"{kind}-{len(self.followers)}"
            addresses = self.addresses if gateways is None else gateways
            started.append(self.start(FOLLOWERS[kind](name, addresses, channels(i), seed=self.seed, **options)))
        return started

    def start(self, follower: Follower) -> Follower:
        """Start a client that the test has made."""
        self.followers.append(follower)
        self.stack.push_async_callback(follower.stop)
        follower.start()
        return follower

    async def all_ready(self, followers: Sequence[Follower] | None = None, within: float = 60.0) -> None:
        """Wait until all clients have received their ready notice."""
        async with asyncio.timeout(within):
            for follower in self.followers if followers is None else followers:
                await follower.ready.wait()

    # Publishing

    def function(self, redis_url: str) -> Send:
        """Publish as the gateway does: through the Redis function, which is loaded again if Redis has lost it."""
        if redis_url not in self._sends:
            client = redis_client(redis_url, 16)
            self.stack.push_async_callback(client.aclose)
            log = Log(client)

            async def send(words: Words) -> str:
                result = (await log.append([words]))[0]
                if isinstance(result, str):
                    return result
                if isinstance(result, Unavailable):
                    raise Refused(result.detail)
                assert result is not None  # as for a live-only event
                raise result

            self._sends[redis_url] = send
        return self._sends[redis_url]

    async def pipelined(self, redis: RedisServer) -> Send:
        """Publish through the Redis function over one connection, without waiting for replies, so that a hung Redis finds all later."""
        reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
        waiting: deque[asyncio.Future[Any]] = deque()

        async def answers() -> None:
            parser = hiredis.Reader()
            while chunk := await reader.read(65_536):
                parser.feed(chunk)
                while (answer := parser.gets()) is not False:
                    waiting.popleft().set_result(answer)

        reading = asyncio.ensure_future(answers())
        self.stack.callback(writer.close)
        self.stack.callback(reading.cancel)

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
        """Publish with our Python client, as a worker does. It does not say why it drops an event, so the outcome is then unknown."""
        name = f"library {redis_url}"
        if name not in self._sends:
            publisher = AsyncPublisher(redis_url)
            self.stack.push_async_callback(publisher.close)  # twice, because the first call gives up after a short time
            self.stack.push_async_callback(publisher.close)

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
        """Publish with ``POST /publish``, each time to a gateway drawn at random."""
        client = httpx.AsyncClient(timeout=5)
        self.stack.push_async_callback(client.aclose)
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
        """Publish one event and note the outcome in the ledger.

        Args:
            send: how to publish it
            channel: where to publish it
            label: COLLAPSE
            size: bytes of padding in its data
            retry: seconds to repeat it with an idempotency key until it is acknowledged; 0 for one attempt without a key
            keep: KEEP
            ttl: TTL
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
        """Publish on random channels at this rate (events a second) while the context is open.

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
                task.add_done_callback(forget)

        def forget(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is None:
                under_way.discard(task)  # a failed task stays, so that its error is raised at the end

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
        """Publish one more event on each channel and wait until every client has it; fail if that takes longer than ``within``.

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
        """Judge all clients. ``gaps`` is how many gap notices are allowed, ``None`` for any number that the oracle can explain."""
        verdict = judge(self.ledger, [follower.log for follower in self.followers])
        outcomes: list[Outcome] = ["acknowledged", "refused", "unknown"]
        self.figures["oracle"] = f"{verdict}; " + ", ".join(f"{self.ledger.count(o)} {o}" for o in outcomes)
        assert not verdict.faults, f"{verdict}\n" + "\n".join(verdict.faults)
        assert gaps is None or verdict.gaps <= gaps, f"{verdict.gaps} gaps, at most {gaps} are allowed: {verdict}"
        for gateway in self.gateways:
            assert "Traceback" not in gateway.output(), gateway.output()[-4000:]
        return verdict


def address(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


@asynccontextmanager
async def open_stage(folder: Path, seed: int, *, full: bool) -> AsyncIterator[Stage]:
    """A stage whose servers and clients are stopped when the context closes, even after a failure."""
    async with AsyncExitStack() as stack:
        stage = Stage(folder, seed, stack, full=full)
        yield stage
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.gather(*(follower.stop() for follower in stage.followers))
