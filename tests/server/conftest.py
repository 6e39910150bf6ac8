"""Serve an application that a test has written with our server protocols."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from gateway.server.protocols import HttpProtocol
from gateway.server.sockets import WebSocketProtocol
from tests.support.wire import Wire, websocket

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Serve = Callable[[App], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A function that serves an ASGI application with our server protocols and returns its port."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: App) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=HttpProtocol, ws=WebSocketProtocol, lifespan="off", log_config=None, ws_max_size=65_536)
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
        running.append((server, asyncio.create_task(server.serve([listener]))))
        while not server.started:
            await asyncio.sleep(0.01)
        return int(listener.getsockname()[1])

    yield start
    for server, task in running:
        server.should_exit = True
        server.force_exit = True
        await task


async def ask(serve: Serve, app: App, client: Callable[[Wire], Any]) -> Any:
    """Let a client use a connection to this application, in a thread of its own; what that returns."""
    return await _in_thread(Wire, await serve(app), client)


async def talk(serve: Serve, app: App, client: Callable[[Wire], Any]) -> Any:
    """Let a client use an open WebSocket of this application, in a thread of its own; what that returns."""
    return await _in_thread(websocket, await serve(app), client)


async def _in_thread(connect: Callable[[int], Wire], port: int, client: Callable[[Wire], Any]) -> Any:
    def run() -> Any:
        with connect(port) as wire:
            return client(wire)

    return await asyncio.to_thread(run)
