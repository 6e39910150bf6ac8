"""Clients that reconnect to two gateways in turn while events are published receive exactly the events of the ledger.

The whole size, 200 clients and 10,000 events, takes a minute or two: ``uv run pytest tests/integration/test_reconnecting.py tests/faults
-k ledger --full``.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import websockets
from redis.asyncio import Redis

from tests.conftest import publisher
from tests.support.servers import Server, running_gateway
from tests.support.waiting import until

CHANNELS = 50
FULL = (10_000, 200, 20)  # events, clients, reconnections of each
SHORT = (2_000, 56, 8)


@pytest.fixture(scope="module")
def gateways(shared_redis_url: str) -> Iterator[list[Server]]:
    with running_gateway(shared_redis_url) as one, running_gateway(shared_redis_url) as two:
        yield [one, two]
        for server in (one, two):
            assert "Traceback" not in server.output()


class Client:
    """Follows two channels over WebSocket, or one over SSE or polling; reconnects with its cursors, each time to the other gateway."""

    def __init__(self, number: int, run: str, gateways: list[Server]) -> None:
        self.kind = ("ws", "ws", "sse", "ws", "ws", "sse", "ws", "poll")[number % 8]
        self.channels = [f"{run}:{number % CHANNELS}"] + ([f"{run}:{(number + 7) % CHANNELS}"] if self.kind == "ws" else [])
        self.cursors = dict.fromkeys(self.channels, "0")
        self.log: dict[str, list[str]] = defaultdict(list)
        self.gaps = 0
        self.number = number
        self.gateways = gateways
        self.http = httpx.AsyncClient(timeout=60)

    def take(self, message: dict[str, Any]) -> None:
        if message.get("op") == "gap":
            self.gaps += 1
        elif "op" not in message:
            self.log[message["channel"]].append(message["id"])
            self.cursors[message["channel"]] = message["id"]

    def has(self, ledger: dict[str, list[str]]) -> bool:
        return all(self.log[name] == ledger[name] for name in self.channels)

    def behind(self, ledger: dict[str, list[str]]) -> list[str]:
        """A line for each channel of which its log is not the ledger's."""
        names = [name for name in self.channels if self.log[name] != ledger[name]]
        return [f"{self.number} {self.kind} {name}: {len(self.log[name])} of {len(ledger[name])}" for name in names]

    async def connect(self, turn: int, until: asyncio.Event) -> None:
        """One connection, until told to leave it."""
        server = self.gateways[(self.number + turn) % 2]
        query = "&".join(f"channel={name},{cursor}" for name, cursor in self.cursors.items())
        work = asyncio.ensure_future(getattr(self, f"_{self.kind}")(server, query))
        leave = asyncio.ensure_future(until.wait())
        await asyncio.wait([work, leave], return_when=asyncio.FIRST_COMPLETED)
        for task in (work, leave):
            task.cancel()
        with suppress(asyncio.CancelledError, websockets.ConnectionClosed, httpx.TransportError):
            await work

    async def connect_for(self, seconds: float, turn: int) -> None:
        """One connection that is left after so many seconds."""
        leave = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, leave.set)
        await self.connect(turn, leave)

    async def _ws(self, server: Server, query: str) -> None:
        # With a full queue websockets would read no further, and a close would wait 10 s for its answer behind that.
        async with websockets.connect(f"{server.ws}/ws?{query}", compression=None, max_queue=None) as socket:
            async for text in socket:
                self.take(json.loads(text))

    async def _sse(self, server: Server, query: str) -> None:
        async with self.http.stream("GET", f"{server.http}/sse?{query}") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.take(json.loads(line[6:]))

    async def _poll(self, server: Server, query: str) -> None:
        while True:
            answer = (await self.http.get(f"{server.http}/poll?{query}&wait=5")).json()
            self.gaps += len(answer["gaps"])
            for event in answer["events"]:
                self.take(event)
            query = "&".join(f"channel={name},{cursor}" for name, cursor in self.cursors.items())


async def _kill_listeners(client: Redis, over: asyncio.Event) -> None:
    """Until it is over; not until it is cancelled, which Python 3.11 may swallow while a command is sent, and then it would never end."""
    while not over.is_set():
        await asyncio.sleep(0.2)
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.parametrize("killed", [False, True], ids=["calm", "pub-sub-killed-every-200-ms"])
async def test_every_log_equals_the_ledger(
    request: pytest.FixtureRequest, gateways: list[Server], shared_redis: Redis, killed: bool
) -> None:
    events, number_of_clients, reconnects = FULL if request.config.getoption("--full", False) else SHORT
    run = f"r{int(killed)}"
    ledger: dict[str, list[str]] = defaultdict(list)
    publish = publisher(shared_redis)
    published = asyncio.Event()
    dice = random.Random(4)
    clients = [Client(number, run, gateways) for number in range(number_of_clients)]

    async def work() -> None:
        for i in range(events):
            name = f"{run}:{i % CHANNELS}"
            ledger[name].append(await publish(name, "progress", i, keep=1_000))
        published.set()

    async def follow(client: Client) -> None:
        for turn in range(reconnects):
            await client.connect_for(dice.uniform(0.05, 0.5), turn)
        for turn in range(100):
            if published.is_set() and client.has(ledger):
                return
            await client.connect_for(0.5 + turn / 10, turn)

    over = asyncio.Event()
    killer = asyncio.ensure_future(_kill_listeners(shared_redis, over)) if killed else None
    try:
        async with asyncio.timeout(250):
            await asyncio.gather(work(), *(follow(client) for client in clients))
    except TimeoutError:
        behind = [line for client in clients for line in client.behind(ledger)]
        pytest.fail(f"{len(behind)} logs are not complete: {behind[:20]}")
    finally:
        over.set()
        if killer is not None:
            await killer
        await asyncio.gather(*(client.http.aclose() for client in clients))

    for client in clients:
        for name in client.channels:
            assert client.log[name] == ledger[name], f"client {client.number} ({client.kind}) on {name}"
        assert client.gaps == 0


async def test_the_same_events_in_the_same_order_from_every_gateway_and_transport(gateways: list[Server], shared_redis: Redis) -> None:
    publish = publisher(shared_redis)
    names = [f"same:{i}" for i in range(5)]
    expected: dict[str, list[str]] = {name: [await publish(name, "progress", 0)] for name in names}
    clients = []
    for number in range(6):
        client = Client(number, "same", gateways)
        client.kind = ("ws", "sse", "poll")[number % 3]
        client.channels = names
        client.cursors = dict.fromkeys(names, "0")
        clients.append(client)
    leave = asyncio.Event()
    following = [asyncio.ensure_future(client.connect(number // 3, leave)) for number, client in enumerate(clients)]
    for i in range(100):
        name = names[i % 5]
        expected[name].append(await publish(name, "progress", i))

    await until(lambda: all(client.has(expected) for client in clients))
    leave.set()
    await asyncio.gather(*following)
    await asyncio.gather(*(client.http.aclose() for client in clients))
