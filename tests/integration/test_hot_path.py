"""What an event and an idle client may cost: calls and objects are counted, not timed, so that a slow machine passes too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tracemalloc
from collections import Counter, deque
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import pytest
import uvicorn
from redis.asyncio import Redis

from gateway import Settings, create_app
from gateway.app import Gateway
from gateway.core.event import Event, parse_announcement
from gateway.core.hub import Hub
from gateway.core.subscription import Subscription
from gateway.core.wire import BLOCK, CHUNK, FRAME, TEXT, Wire
from gateway.server.run import server_config
from tests.conftest import publisher
from tests.support.wire import request, upgrade

FEW, MANY = 10, 1_000


def nothing(*_: Any) -> None:
    pass


def hub_with(clients: int, wire: Wire = FRAME) -> Hub:
    """A hub with clients that are live on one channel; their writes are discarded without a Python call."""
    hub = Hub()
    for _ in range(clients):
        write = deque[bytes](maxlen=0).append
        subscription = Subscription(wire=wire, write=write, on_behind=nothing, on_done=nothing, on_failed=nothing)
        cursor = hub.follow(subscription, "a", 5)
        subscription.live = cursor.live = True
    return hub


def announcement(id: int, before: int) -> bytes:
    return b'%d %d\n{"type":"progress","data":{"n":1}}' % (id, before)


def calls(hub: Hub, payload: bytes, channel: str = "a") -> Counter[str]:
    """The calls that an announcement causes in the gateway's code, and from it, counted by kind."""
    found = Counter[str]()

    def count(frame: FrameType, kind: str, _argument: object) -> None:
        found[kind] += frame.f_globals["__name__"].startswith("gateway.")

    sys.setprofile(count)
    try:
        hub.announce(parse_announcement(channel, payload))
    finally:
        sys.setprofile(None)
    return found


def test_another_client_costs_an_event_one_write_and_no_python_call() -> None:
    calls(hub_with(1), announcement(6, 5))  # what is remembered from the first time on is not counted
    few, many = (calls(hub_with(clients), announcement(6, 5)) for clients in (FEW, MANY))

    assert many["call"] == few["call"]
    assert many["c_call"] - few["c_call"] == MANY - FEW


def test_an_event_is_encoded_once_and_all_clients_are_given_the_same_object() -> None:
    hub, taken, encoded = Hub(), deque[bytes](), list[Event]()

    def encode(event: Event) -> bytes:
        encoded.append(event)
        return event.json

    wires = [Wire(name, encode, lambda _name, json, _id: json) for name in ("one", "another")]
    for number in range(MANY):
        wire = wires[number % 2]
        subscription = Subscription(wire=wire, write=taken.append, on_behind=nothing, on_done=nothing, on_failed=nothing)
        cursor = hub.follow(subscription, "a", 5)
        subscription.live = True
        cursor.live = number % 10 != 0  # some are not yet on the short way
    event = parse_announcement("a", announcement(6, 5))
    hub.announce(event)

    assert len(taken) == MANY
    assert encoded == [event, event]
    assert len({id(data) for data in taken}) <= len(wires)


@pytest.mark.parametrize("wire", [TEXT, FRAME, BLOCK, CHUNK], ids=repr)
def test_another_client_needs_no_memory_for_an_event(wire: Wire) -> None:
    def peak(clients: int) -> int:
        hub = hub_with(clients, wire)
        hub.announce(parse_announcement("a", announcement(6, 5)))
        event = parse_announcement("a", announcement(7, 6))
        tracemalloc.start()
        try:
            hub.announce(event)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # The list of the followers takes 8 bytes for each; even the smallest object would take 16, with its place in the list.
    assert peak(MANY) - peak(FEW) < 16 * (MANY - FEW)


@contextlib.asynccontextmanager
async def serving(app: Gateway, settings: Settings) -> AsyncIterator[int]:
    """The application under our protocols, in this process. Gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = server_config(app, settings)
    config.log_config = None
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
    running = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await running


async def follow(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await reader.readuntil(b"ready")
    return reader, writer


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_an_open_connection_has_no_task_and_gets_its_events_without_one(redis_url: str, redis: Redis, kind: str) -> None:
    settings = Settings(redis_url=redis_url, auth="none")
    app = create_app(settings, stop=nothing)
    head = upgrade("/ws?channel=a", host="localhost") if kind == "websocket" else request("/sse?channel=a", host="localhost")
    created: list[str] = []
    async with serving(app, settings) as port, asyncio.timeout(30):
        first = await follow(port, head)
        before = await settled()
        clients = [first] + [await follow(port, head) for _ in range(20)]
        after = await settled()

        def note(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            created.append(coroutine.__qualname__)
            return asyncio.Task(coroutine, loop=loop, **options)

        loop = asyncio.get_running_loop()
        id = await publisher(redis)("a")
        await asyncio.gather(*(reader.readuntil(id.encode()) for reader, _ in clients))
        loop.set_task_factory(note)
        try:
            id = await redis.execute_command("FCALL", "notify_publish", 1, "a", "1")
            for reader, _ in clients:
                await reader.readuntil(id)
        finally:
            loop.set_task_factory(None)
        for _, writer in clients:
            writer.close()
        while app.services.connections.count:
            await asyncio.sleep(0.01)

    assert after == before
    assert len(created) < len(clients) // 2, created  # this test's own commands to Redis, and a probe perhaps


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_another_connection_costs_an_event_no_call_into_the_gateway(redis_url: str, redis: Redis, kind: str) -> None:
    settings = Settings(redis_url=redis_url, auth="none")
    app = create_app(settings, stop=nothing)
    calls(Hub(), announcement(6, 5))  # what is remembered from the first time on is not counted
    found: list[Counter[str]] = []
    async with serving(app, settings) as port, asyncio.timeout(30):
        for channel, number in (("few", FEW), ("many", 3 * FEW)):
            path = f"{'/ws' if kind == 'websocket' else '/sse'}?channel={channel}"
            head = (upgrade if kind == "websocket" else request)(path, host="localhost")
            clients = [await follow(port, head) for _ in range(number)]
            id = await publisher(redis)(channel)
            await asyncio.gather(*(reader.readuntil(id.encode()) for reader, _ in clients))
            found.append(calls(app.services.feed.hub, announcement(int(id) + 1, int(id)), channel))
            await asyncio.gather(*(reader.readuntil(b"%d" % (int(id) + 1)) for reader, _ in clients))
            for _, writer in clients:
                writer.close()
        while app.services.connections.count:
            await asyncio.sleep(0.01)

    assert found[1]["call"] == found[0]["call"]
    assert found[1]["c_call"] - found[0]["c_call"] <= 2 * FEW


async def settled() -> int:
    """How many tasks there are once those that did something have ended."""
    lowest = len(asyncio.all_tasks())
    for _ in range(20):
        await asyncio.sleep(0.02)
        lowest = min(lowest, len(asyncio.all_tasks()))
    return lowest
