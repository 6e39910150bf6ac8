"""A shutdown closes connections spread over time, answers polls, and exits cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from redis.asyncio import Redis

from gateway import Settings, create_app
from gateway.server.drain import SIGNALS, draining
from gateway.server.run import GRACE_SECONDS
from gateway.transports.connections import Ending
from gateway.transports.services import Services
from tests.conftest import Publish
from tests.support.clients import sse
from tests.support.figures import figures, figures_when, until_live
from tests.support.listening import is_listening
from tests.support.servers import PATIENT, START_SECONDS, Server, running_gateway, workers_of
from tests.support.slowness import slowness
from tests.support.waiting import until
from tests.support.wire import Wire, request, upgrade, websocket


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_streams_are_closed_one_after_the_other_and_the_exit_is_clean(redis_url: str, workers: str) -> None:
    with running_gateway(redis_url, "--workers", workers, drain_seconds="2") as server:
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(12)]
        for socket in sockets:
            assert json.loads(await socket.recv())["op"] == "ready"
        stream = sse(server.http, "channel=jobs:1")
        assert (await anext(stream))["op"] == "ready"
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()

        async def closed(socket: websockets.ClientConnection) -> tuple[int | None, float]:
            await socket.wait_closed()
            return socket.close_code, time.monotonic() - started

        ends = await asyncio.gather(*(closed(socket) for socket in sockets))
        bye = await anext(stream)
        await stream.aclose()
        exit_code = await asyncio.to_thread(server.process.wait, 30)

    assert {code for code, _ in ends} == {1012}
    assert max(at for _, at in ends) - min(at for _, at in ends) > 0.8
    assert (bye["op"], bye["code"]) == ("bye", 1012)
    assert exit_code == 0


async def test_if_its_feed_dies_clients_are_sent_away_at_once_and_the_exit_says_so(redis_url: str, redis: Redis) -> None:
    dies = "from gateway.store.listener import Listener\n"
    dies += "def take(self, reply, take=Listener._take): take(self, 1 / 0 if reply[-1] == b'666' else reply)\n"
    dies += "Listener._take = take"
    with running_gateway(redis_url, before=dies, drain_seconds="20") as server:
        stream = sse(server.http, "channel=jobs:1")
        async with websockets.connect(f"{server.ws}/ws?channel=jobs:1") as socket:
            assert json.loads(await socket.recv())["op"] == "ready"
            assert (await anext(stream))["op"] == "ready"
            began = time.monotonic()
            await redis.publish("notify:jobs:1", "666")
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            with pytest.raises((httpx.TransportError, StopAsyncIteration)):
                await anext(stream)
            exit_code = await asyncio.to_thread(server.process.wait, 30)
            took = time.monotonic() - began

        assert "the feed has died" in server.output()
    assert exit_code == 1
    assert took < 4 * slowness()


@pytest.mark.parametrize("nohup", [False, True])
async def test_when_its_terminal_is_closed_it_drains_unless_nohup_was_said(redis_url: str, *, nohup: bool) -> None:
    with ignoring_hangups() if nohup else contextlib.nullcontext(), running_gateway(redis_url, drain_seconds="0") as server:
        async with websockets.connect(f"{server.ws}/ws?channel=jobs:1") as socket:
            assert json.loads(await socket.recv())["op"] == "ready"
            server.process.send_signal(signal.SIGHUP)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(socket.wait_closed(), 2 if nohup else 30)
            closed = socket.close_code

            assert closed == (None if nohup else 1012)
        assert nohup or server.process.wait(30) == 0


@contextlib.contextmanager
def ignoring_hangups() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # processes that are started meanwhile inherit it
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_sighup_replaces_the_workers_one_by_one_and_drains_each(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2", before=PATIENT, drain_seconds="1") as server:
        before = workers_of(server)
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(6)]
        for pid in [server.process.pid, *before]:  # all get it when a terminal is closed
            os.kill(pid, signal.SIGHUP)
        for socket in sockets:
            await socket.wait_closed()
        while len(set(workers_of(server)) - set(before)) < 2:
            await asyncio.sleep(0.1)

    assert {socket.close_code for socket in sockets} == {1012}


async def test_nobody_is_refused_while_the_workers_are_replaced(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2", before=PATIENT, drain_seconds="4") as server:
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(16)]
        server.process.send_signal(signal.SIGHUP)
        await until_draining(server)
        async with httpx.AsyncClient(headers={"connection": "close"}) as client:
            while server.output().count("drained in") == 0:
                assert (await client.get(f"{server.http}/readyz")).status_code == 200
                assert (await client.get(f"{server.http}/poll?channel=jobs:1&wait=0")).status_code == 200
        for socket in sockets:
            await socket.close()


async def test_signals_that_end_it_reach_a_worker_that_is_being_replaced_too(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2", before=PATIENT, drain_seconds="60") as server:
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(16)]
        server.process.send_signal(signal.SIGHUP)
        await until_draining(server)
        server.process.send_signal(signal.SIGTERM)
        await until_draining(server, 3)

        assert any(socket.state is websockets.State.OPEN for socket in sockets)
        server.process.send_signal(signal.SIGTERM)  # the second one, which ends all of them at once
        assert await asyncio.to_thread(server.process.wait, 25) == 0
        for socket in sockets:
            await socket.close()


def test_a_signal_that_ends_it_is_heeded_while_the_workers_are_replaced(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "3", drain_seconds="3") as server, contextlib.ExitStack() as clients:
        workers_of(server, 3)
        for _ in range(24):  # so many that each worker has some, and needs its time to drain
            clients.enter_context(websocket(server.port, "/ws?channel=jobs:1"))
        server.process.send_signal(signal.SIGHUP)
        workers_of(server, 4)
        server.process.send_signal(signal.SIGTERM)
        clients.close()

        assert server.process.wait(60) == 0
        assert server.output().count("draining: ") < 6  # not all three were replaced before


async def test_a_draining_gateway_is_not_ready_and_refuses_new_clients(redis_url: str) -> None:
    with running_gateway(redis_url, drain_seconds="60") as server:
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(2)]
        server.process.send_signal(signal.SIGTERM)
        await until_draining(server)
        async with httpx.AsyncClient() as client:
            ready = await client.get(f"{server.http}/readyz")
            poll = await client.get(f"{server.http}/poll?channel=jobs:1")
            stream = await client.get(f"{server.http}/sse?channel=jobs:1")
        with pytest.raises(websockets.InvalidStatus) as upgrade:
            await websockets.connect(f"{server.ws}/ws?channel=jobs:1")
        shown = (await figures(server.http))["gateway_draining"]
        for socket in sockets:
            await socket.close()

    assert shown == 1
    assert ready.status_code == poll.status_code == stream.status_code == upgrade.value.response.status_code == 503
    assert int(stream.headers["retry-after"]) >= 1


async def test_an_event_source_that_comes_during_a_drain_is_served_until_its_end(shared_redis_url: str, publish: Publish) -> None:
    with running_gateway(shared_redis_url, drain_seconds="4") as server:
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(2)]
        server.process.send_signal(signal.SIGTERM)
        await until_draining(server)
        stream = sse(server.http, "channel=jobs:1&since=now")
        ready = await anext(stream)
        await publish("jobs:1", "completed")
        event = await anext(stream)
        bye = await anext(stream)
        for socket in sockets:
            await socket.close()
        status = await asyncio.to_thread(server.process.wait, 30)

    assert (ready["op"], event["type"], bye["op"], bye["code"], status) == ("ready", "completed", "bye", 1012, 0)


# Soon over, although a client does not close its connection, and nobody's stream is begun before there is something to send.
HASTY = "from gateway import feed; from gateway.transports import connections; feed.LINGER_SECONDS, connections.CLOSE_SECONDS = 60, 1"


async def test_an_event_source_that_comes_at_the_end_of_a_drain_while_redis_is_away_gets_a_whole_answer(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        with running_gateway(redis_url, before=HASTY) as server, Wire(server.port) as stubborn, Wire(server.port) as late:
            stubborn.send(upgrade("/ws")).answer()
            await redis.execute_command("CLIENT", "PAUSE", 20_000)
            server.process.send_signal(signal.SIGTERM)
            await until_draining(server)
            answer = late.send(request("/sse?channel=jobs:1", "Accept: text/event-stream")).rest()
            await asyncio.to_thread(server.process.wait, 30)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.search(rb"retry: \d+\n", answer)
    assert answer.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("ask", [upgrade("/ws?channel=jobs:1"), request("/sse?channel=jobs:1")], ids=["websocket", "sse"])
async def test_a_second_signal_while_redis_is_away_ends_no_stream_without_the_head_of_its_answer(redis_url: str, ask: bytes) -> None:
    async with Redis.from_url(redis_url) as redis:
        with running_gateway(redis_url, before=HASTY, drain_seconds="60") as server, Wire(server.port) as one, Wire(server.port) as other:
            await redis.execute_command("CLIENT", "PAUSE", 20_000)
            one.send(ask)
            other.send(ask)
            await figures_when(server.http, lambda now: now["gateway_connections"] == 2)
            server.process.send_signal(signal.SIGTERM)
            await until_draining(server)
            server.process.send_signal(signal.SIGTERM)
            received = [one.rest(), other.rest()]

    assert [data[:9] for data in received] == [b"HTTP/1.1 "] * 2


async def test_a_drain_answers_polls_and_tells_streams_when_to_reconnect(redis_url: str) -> None:
    with running_gateway(redis_url, drain_seconds="1") as server:
        async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", f"{server.http}/sse?channel=jobs:1") as stream:
            poll = asyncio.ensure_future(client.get(f"{server.http}/poll?channel=jobs:1&wait=30&since=now"))
            await until_live(server.http, 2)
            server.process.send_signal(signal.SIGTERM)
            lines = [line async for line in stream.aiter_lines()]
            answer = await poll
        exit_code = await asyncio.to_thread(server.process.wait, 30)

    assert answer.status_code == 200
    assert list(answer.json()["channels"]) == ["jobs:1"]
    assert lines[-4].startswith("retry: ")
    assert 100 <= int(lines[-4].removeprefix("retry: ")) <= 1000
    assert lines[-3] == "event: bye"
    assert exit_code == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_it_at_once(redis_url: str, workers: str) -> None:
    with running_gateway(redis_url, "--workers", workers, drain_seconds="60") as server:
        asyncio.run(hold_and_end(server, int(workers)))

        assert server.process.wait(25) == 0


def test_a_connection_on_which_nothing_is_asked_does_not_delay_the_end(redis_url: str) -> None:
    with running_gateway(redis_url) as server, Wire(server.port, GRACE_SECONDS - 1) as wire:
        assert wire.send(request()).answer().status == 200
        server.process.send_signal(signal.SIGTERM)

        assert wire.rest() == b""


def test_a_request_on_its_way_when_the_gateway_ends_is_answered(redis_url: str) -> None:
    with running_gateway(redis_url) as server, Wire(server.port) as pooled:
        assert pooled.send(request()).answer().headers.get("connection") is None
        server.process.send_signal(signal.SIGTERM)
        while is_listening(server.port):
            pass
        answer = pooled.send(request()).answer()

        assert (answer.status, answer.headers["connection"], pooled.rest()) == (200, "close", b"")


async def test_ctrl_c_in_a_terminal_drains_the_workers_too(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2", drain_seconds="2") as server:
        processes = [server.process.pid, *workers_of(server)]
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(6)]
        for pid in processes:
            os.kill(pid, signal.SIGINT)
        for socket in sockets:
            await socket.wait_closed()
        status = await asyncio.to_thread(server.process.wait, 30)
        drained = server.output().count("drained in")

    assert {socket.close_code for socket in sockets} == {1012}
    assert (status, drained) == (0, 2)


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    """A server of uvicorn that has this process's signals."""
    server = uvicorn.Server(uvicorn.Config(lambda: None, log_config=None))
    before = {number: signal.signal(number, server.handle_exit) for number in SIGNALS}
    yield server
    for number, handler in before.items():
        signal.signal(number, handler)


def services() -> Services:
    return create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none")).services


async def test_the_first_signal_drains_and_the_second_ends(server: uvicorn.Server) -> None:
    shared = services()
    with contextlib.ExitStack() as polls:
        async with draining(shared, 60), asyncio.timeout(30):
            for _ in range(2):
                polls.enter_context(shared.connections.counted("a", "ann", lambda *_: None))
            signal.raise_signal(signal.SIGTERM)
            while not shared.draining:
                await asyncio.sleep(0)
            drained = server.should_exit
            signal.raise_signal(signal.SIGINT)
            while not server.should_exit:
                await asyncio.sleep(0)

    assert not drained
    assert server.force_exit


async def test_a_drain_without_time_ends_all_connections_together(server: uvicorn.Server) -> None:
    shared = services()
    ended: set[tuple[int, int]] = set()

    def ending(name: int) -> Ending:
        return lambda code, _: ended.add((name, code))

    with contextlib.ExitStack() as polls:
        async with draining(shared, 0), asyncio.timeout(4):
            for name in range(6):
                polls.enter_context(shared.connections.counted("a", "ann", ending(name)))
            signal.raise_signal(signal.SIGTERM)
            while len(ended) < 6:
                await asyncio.sleep(0.001)

    assert ended == {(name, 1012) for name in range(6)}


async def test_the_signals_are_uvicorns_again_after_the_gateway(server: uvicorn.Server) -> None:
    async with draining(services(), 0):
        taken = [signal.getsignal(number) == server.handle_exit for number in SIGNALS]

    assert taken == [False] * len(SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == [server.handle_exit] * len(SIGNALS)


async def test_the_signals_of_another_host_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    async with draining(services(), 0):
        during = [signal.getsignal(number) for number in SIGNALS]

    assert during == before


async def test_in_another_thread_the_signals_are_left_alone(server: uvicorn.Server) -> None:
    async def drain() -> list[Any]:
        async with draining(services(), 0):
            return [signal.getsignal(number) for number in SIGNALS]

    assert await asyncio.to_thread(asyncio.run, drain()) == [server.handle_exit] * len(SIGNALS)


async def until_draining(server: Server, workers: int = 1) -> None:
    """Wait until a gateway's workers have heeded a signal."""
    await until(lambda: server.output().count("draining: ") >= workers, START_SECONDS)  # which a worker in its place may take to start


async def hold_and_end(server: Server, workers: int) -> None:
    workers_of(server, workers)  # a worker that is still starting would drain nothing
    async with AsyncExitStack() as stack:
        for _ in range(3):  # so that one of the two workers has two streams to close, and its drain takes a while
            await stack.enter_async_context(websockets.connect(f"{server.ws}/ws?channel=jobs:1"))
        server.process.send_signal(signal.SIGTERM)
        await until_draining(server, workers)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 25)
