"""Undocumented behaviour of uvicorn and websockets that we rely upon: a version that changes it must fail here."""

from __future__ import annotations

import asyncio
import gc
import inspect
from typing import Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.protocol import Protocol, State

from gateway.server.exchange import Exchange
from gateway.server.protocols import HttpProtocol
from gateway.server.transport_writer import TransportWriter
from gateway.transports.writer import EXTENSION, HIGH_BYTES, LOW_BYTES
from tests.server.conftest import Serve, ask, talk
from tests.support.waiting import until
from tests.support.wire import CLOSE, Wire, frame, request, upgrade


def test_uvicorn_and_websockets_have_what_we_rely_upon() -> None:
    state = ServerState()
    protocol = inspect.signature(HttpToolsProtocol).parameters
    server = inspect.getsource(Server)

    assert list(protocol) == list(inspect.signature(HttpProtocol).parameters)
    assert (state.connections, state.tasks, state.default_headers) == (set(), set(), [])
    for used in ("connection.shutdown()", "self.server_state.default_headers = ", "config.http_protocol_class("):
        assert used in server
    config = Config(lambda: None)
    assert {"ws_max_size", "root_path", "asgi_version", "timeout_keep_alive"} <= {name for name in dir(config) if not name.startswith("_")}
    assert {"state", "max_size", "logger"} <= inspect.signature(Protocol).parameters.keys()
    assert inspect.signature(Protocol).parameters["state"].default is State.OPEN
    for method in ("receive_data", "events_received", "data_to_send", "send_text", "send_binary", "send_close", "fail"):
        assert callable(getattr(Protocol, method))


async def test_bytes_written_to_the_writer_arrive_as_they_are_and_it_tells_when_the_client_is_gone(serve: Serve) -> None:
    gone = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        writer.on_gone = gone.set
        await receive()
        await send({"type": "websocket.accept"})
        writer.write(b"\x81\x02hi")
        while (await receive())["type"] != "websocket.disconnect":
            pass

    assert await talk(serve, app, lambda wire: wire.frame()) == (1, b"hi")
    await asyncio.wait_for(gone.wait(), 30)


async def test_a_stream_has_a_writer_too_once_it_has_begun_in_chunks(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"oh", "more_body": True})
        scope["extensions"][EXTENSION].write(b"2\r\nhi\r\n")
        await send({"type": "http.response.body", "body": b""})

    answer = await ask(serve, app, lambda wire: wire.send(request("/", "Connection: close")).rest())
    assert b"transfer-encoding: chunked\r\n" in answer.lower()
    assert answer.endswith(b"\r\n\r\n2\r\noh\r\n2\r\nhi\r\n0\r\n\r\n")


@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_the_writer_tells_when_it_is_full_and_when_there_is_room(serve: Serve, kind: str) -> None:
    told: list[str] = []
    taken: list[int] = []
    room = asyncio.Event()

    def has_room() -> None:
        told.append("room")
        room.set()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        writer.on_full = lambda: told.append("full")
        writer.on_room = has_room
        if kind == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        written = 0
        while not told:
            writer.write(b"\x82\x7e\xff\xff" + b"x" * 65_535)
            written += 65_539
        assert writer.transport.get_write_buffer_size() > HIGH_BYTES
        await room.wait()
        taken.append(writer.taken())
        assert writer.transport.get_write_buffer_size() < LOW_BYTES
        writer.abort()

    port = await serve(app)

    def client() -> int:
        with Wire(port, receive_buffer=65_536) as wire:
            return len(wire.send(upgrade() if kind == "websocket" else request()).rest())

    received = await asyncio.to_thread(client)
    assert told[:2] == ["full", "room"]
    assert taken
    assert received > HIGH_BYTES


async def test_a_head_reaches_the_application_unchanged(serve: Serve) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-b", b"c")]})
        await receive()

    port = await serve(app)

    def client() -> dict[str, str]:
        with Wire(port) as wire:
            return wire.send(upgrade("/a%20b?c=%64", "X-A: \xe9", "x-a: 2")).answer().headers

    headers = await asyncio.to_thread(client)
    scope = scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=%64")
    assert (scope["server"], scope["client"][0]) == (("127.0.0.1", port), "127.0.0.1")
    assert [value for name, value in scope["headers"] if name == b"x-a"] == [b"\xe9", b"2"]
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["x-b"] == "c"


async def test_frames_pass_both_ways_and_a_close_is_answered(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"][::-1]})
        await send({"type": "websocket.close", "code": 4400, "reason": "bye"})
        assert (await receive())["code"] == 4400

    def client(wire: Wire) -> list[Any]:
        wire.send(frame(b"abc"))
        return [wire.frame(), wire.frame()]

    assert await talk(serve, app, client) == [(1, b"cba"), (CLOSE, b"\x110bye")]


async def test_trailers_become_headers_neither_of_their_request_nor_of_the_next(serve: Serve) -> None:
    seen: list[list[bytes]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append([name for name, _ in scope["headers"]])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def client(wire: Wire) -> list[int]:
        head = request("/", "Transfer-Encoding: chunked", method="POST")
        wire.send(head + b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n" + request("/"))
        return [wire.answer().status for _ in range(2)]

    assert await ask(serve, app, client) == [200, 200]
    assert seen == [[b"host", b"transfer-encoding"], [b"host"]]


async def leave_it(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Sends a response, or returns while a stream or a WebSocket stays open."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        writer = scope["extensions"][EXTENSION]
        writer.detach(lambda _: writer.message_done())  # which refers back to the writer, as the gateway's callback does
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    if scope["path"] == "/stream":
        scope["extensions"][EXTENSION].detach()
    elif scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await send({"type": "http.response.body", "body": b""})


async def test_no_object_of_a_closed_connection_waits_for_the_garbage_collector(serve: Serve) -> None:
    port = await serve(leave_it)

    def there() -> int:
        return sum(isinstance(each, HttpProtocol | Exchange | TransportWriter) for each in gc.get_objects())

    def clients() -> None:
        for data in (
            b"",
            b"bad\r\n\r\n",
            upgrade(),
            request("/stream"),
            request("/wait"),
            request("/") * 3,
            request("/", "Connection: close"),
        ):
            with Wire(port) as wire:
                wire.send(data).take(12 if data else 0)

    gc.collect()
    gc.disable()
    try:
        before = there()
        await asyncio.to_thread(clients)
        await until(lambda: there() <= before)
    finally:
        gc.enable()

    assert there() == before
