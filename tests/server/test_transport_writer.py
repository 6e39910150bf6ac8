"""What a writer to a transport knows of its client, and how it leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.core.wire import http_chunk
from gateway.server import transport_writer
from tests.server.conftest import Serve
from tests.server.test_streams import App
from tests.support.kernel import needs_linux_tcp
from tests.support.waiting import until
from tests.support.wire import Wire, request


@needs_linux_tcp
async def test_a_stream_knows_how_much_the_client_has_taken(serve: Serve) -> None:
    app = App()
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(app))
    writer.write(request("/"))
    begun = await reader.readuntil(http_chunk(b"begun"))
    [stream] = app.writers

    async def taken(least: int) -> int:
        await until(lambda: stream.taken() >= least)
        return int(stream.taken())

    before = await taken(len(begun))
    stream.write(b"x" * 5_000)
    await reader.readexactly(5_000)

    assert await taken(before + 5_000) == before + 5_000
    writer.close()


@asynccontextmanager
async def stream_to_a_small_window(serve: Serve, app: App) -> AsyncIterator[Any]:
    """The writer of a stream that has begun, and whose client reads nothing more."""
    port = await serve(app)
    with Wire(port, receive_buffer=4_096) as wire:
        await asyncio.to_thread(lambda: wire.send(request("/")).take(20))
        [stream] = app.writers
        yield stream


@needs_linux_tcp
async def test_a_stream_knows_of_bytes_that_wait_in_the_kernel(serve: Serve) -> None:
    async with stream_to_a_small_window(serve, App()) as stream:
        stream.write(http_chunk(b"x" * 50_000))
        await until(lambda: stream.transport.get_write_buffer_size() == 0)

        assert 0 < stream.buffered() < 50_010
        stream.abort()
        assert stream.buffered() == 0  # nobody asks for the number of a socket that is being closed


async def test_a_client_that_is_cut_gets_nothing_more(serve: Serve) -> None:
    app = App()
    port = await serve(app)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request("/"))
        await asyncio.to_thread(client.recv, 20)
        [stream] = app.writers
        stream.write(http_chunk(b"x" * 10_000_000))
        stream.abort()

        def read_on() -> None:
            while client.recv(65_536):
                pass

        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(read_on)


async def test_a_client_that_does_not_take_the_end_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_writer, "CLOSE_SECONDS", 0.05)
    app = App()
    async with stream_to_a_small_window(serve, app) as stream:
        stream.write(http_chunk(b"x" * 10_000_000))
        stream.end()

        assert app.gone.is_set()
        await until(lambda: not stream.buffered())
