"""Streams that continue after the application has returned."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core.wire import http_chunk
from gateway.transports.writer import EXTENSION
from tests.server.conftest import Serve, ask
from tests.support.waiting import eventually
from tests.support.wire import Wire, request


class App:
    """An application that starts a stream, returns, and keeps its writer."""

    def __init__(self) -> None:
        self.stayed: list[bool] = []
        self.writers: list[Any] = []
        self.tasks: list[Any] = []
        self.gone = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        self.writers.append(writer)
        self.tasks.append(asyncio.current_task())
        writer.on_gone = self.gone.set
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        self.stayed.append(writer.detach())
        while not self.stayed[-1] and (await receive())["type"] != "http.disconnect":
            pass


async def test_a_stream_continues_without_a_task_and_is_ended_by_its_writer(serve: Serve) -> None:
    app = App()

    def client(wire: Wire) -> bytes:
        wire.send(request("/"))
        assert eventually(lambda: bool(app.stayed))
        app.writers[0].transport._loop.call_soon_threadsafe(end)
        return wire.rest()

    def end() -> None:
        ended.extend(task.done() for task in app.tasks)
        app.writers[0].write(http_chunk(b"more"))
        app.writers[0].end()
        app.writers[0].end()

    ended: list[bool] = []
    answer = await ask(serve, app, client)

    assert answer.endswith(b"\r\n\r\n" + http_chunk(b"begun") + http_chunk(b"more") + b"0\r\n\r\n")
    assert ended == [True]
    assert app.gone.is_set()


@pytest.mark.parametrize("way", ["close", "bytes"])
async def test_a_stream_ends_when_the_client_leaves_or_sends_anything(serve: Serve, way: str) -> None:
    app = App()

    def client(wire: Wire) -> None:
        wire.send(request("/")).take(20)
        if way == "bytes":
            wire.send(request("/")).rest()

    await ask(serve, app, client)

    async with asyncio.timeout(30):
        await app.gone.wait()


async def test_what_comes_behind_the_last_request_of_a_connection_does_not_end_it(serve: Serve) -> None:
    app = App()

    def client(wire: Wire) -> bytes:
        wire.send(request("/", "Connection: close") + b"more")
        assert eventually(lambda: bool(app.stayed))
        app.writers[0].transport._loop.call_soon_threadsafe(app.writers[0].end)
        return wire.rest()

    answer = await ask(serve, app, client)

    assert app.stayed == [True]
    assert answer.endswith(http_chunk(b"begun") + b"0\r\n\r\n")


async def test_a_stream_cannot_stay_if_another_request_is_waiting(serve: Serve) -> None:
    app = App()

    def client(wire: Wire) -> None:
        wire.send(request("/") * 2).take(20)

    await ask(serve, app, client)

    async with asyncio.timeout(30):
        await app.gone.wait()
    assert app.stayed == [False]
