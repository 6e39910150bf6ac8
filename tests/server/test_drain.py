"""A shutdown closes connections spread over time, answers polls, and exits cleanly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import AsyncExitStack

import httpx
import pytest
import websockets

from gateway.server.run import GRACE_SECONDS
from tests.support.clients import sse
from tests.support.figures import figures, figures_when
from tests.support.servers import Server, running_gateway, workers_of
from tests.support.wire import Wire, request


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


async def test_a_draining_gateway_is_not_ready_and_refuses_new_clients(redis_url: str) -> None:
    with running_gateway(redis_url, drain_seconds="3") as server:
        sockets = [await websockets.connect(f"{server.ws}/ws?channel=jobs:1") for _ in range(2)]
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        async with httpx.AsyncClient() as client:
            ready = await client.get(f"{server.http}/readyz")
            stream = await client.get(f"{server.http}/sse?channel=jobs:1")
        shown = (await figures(server.http))["gateway_draining"]
        for socket in sockets:
            await socket.close()

    assert shown == 1
    assert ready.status_code == stream.status_code == 503
    assert int(stream.headers["retry-after"]) >= 1


async def test_a_drain_answers_polls_and_tells_streams_when_to_reconnect(redis_url: str) -> None:
    with running_gateway(redis_url, drain_seconds="1") as server:
        async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", f"{server.http}/sse?channel=jobs:1") as stream:
            poll = asyncio.ensure_future(client.get(f"{server.http}/poll?channel=jobs:1&wait=30&since=now"))
            await figures_when(server.http, lambda now: now["gateway_connections"] == 2 and now["gateway_behind"] == 0)
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
        asyncio.run(hold_and_end(server))

        assert server.process.wait(25) == 0


def test_a_connection_on_which_nothing_is_asked_does_not_delay_the_end(redis_url: str) -> None:
    with running_gateway(redis_url) as server, Wire(server.port, GRACE_SECONDS - 1) as wire:
        assert wire.send(request()).answer().status == 200
        server.process.send_signal(signal.SIGTERM)

        assert wire.rest() == b""


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


async def hold_and_end(server: Server) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):  # so that one of the two workers has two streams to close, and its drain takes a while
            await stack.enter_async_context(websockets.connect(f"{server.ws}/ws?channel=jobs:1"))
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 25)
