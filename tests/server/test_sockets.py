"""Open WebSockets: the answer to the upgrade, and a connection that outlives the application's call."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from typing import Any

import pytest
from uvicorn.protocols.utils import ClientDisconnected

from gateway.server import sockets, transport_writer
from gateway.transports.writer import EXTENSION
from tests.server.conftest import Serve, ask, talk
from tests.support.waiting import until
from tests.support.wire import CLOSE, PING, PONG, TEXT, Wire, frame, upgrade, websocket

FAILED = b"Internal Server Error"


async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/start":
        await send({"type": "websocket.http.response.start", "status": 503, "headers": [(b"retry-after", b"7")]})
        await send({"type": "websocket.http.response.body", "body": b"full", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"!"})
    elif scope["path"] == "/close":
        await send({"type": "websocket.close"})
    elif scope["path"] == "/raise":
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("path", "status", "fields", "body"),
    [
        ("/start", 503, {"retry-after": "7"}, b"full!"),
        ("/close", 403, {}, b""),
        ("/raise", 500, {}, b"Internal Server Error"),
        ("/return", 500, {}, b"Internal Server Error"),
    ],
)
async def test_an_upgrade_that_is_refused_is_answered_and_closed(
    serve: Serve, path: str, status: int, fields: dict[str, str], body: bytes
) -> None:
    answer, rest = await ask(serve, refuse, lambda wire: (wire.send(upgrade(path)).answer(), wire.rest()))

    assert (answer.status, answer.body, rest) == (status, body, b"")
    usual = {"content-length": str(len(body)), "connection": "close", "content-type": "text/plain; charset=utf-8"}
    assert usual | fields == {name: value for name, value in answer.headers.items() if name not in ("date", "server")}


async def test_a_client_that_does_not_wait_for_the_answer_is_cut(serve: Serve) -> None:
    called = threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        called.set()
        assert (await receive())["type"] == "websocket.disconnect"

    def client(wire: Wire) -> bytes:
        wire.send(upgrade())
        called.wait(10)
        return wire.send(frame(b"early")).rest()

    assert await ask(serve, app, client) == b""


async def test_after_a_refusal_nothing_more_is_sent(serve: Serve) -> None:
    outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close"})
        try:
            await send({"type": "websocket.accept"})
        except ClientDisconnected:
            outcome.set_result((await receive())["type"] == "websocket.disconnect")

    assert await ask(serve, app, lambda wire: (wire.send(upgrade()).answer().status, wire.rest())) == (403, b"")
    async with asyncio.timeout(30):
        assert await outcome


async def test_an_application_that_fails_ends_with_a_close_frame(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise ZeroDivisionError

    assert await talk(serve, app, lambda wire: (wire.close_code(), wire.send(frame(b"\x03\xf3", opcode=CLOSE)).rest())) == (1011, b"")


async def test_an_application_that_fails_while_the_head_is_held_back_ends_with_both(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        scope["extensions"][EXTENSION].hold_head()
        await send({"type": "websocket.accept"})
        raise ZeroDivisionError

    assert await talk(serve, app, lambda wire: wire.close_code()) == 1011


async def test_a_head_that_was_held_back_is_given_once(serve: Serve) -> None:
    heads: list[bytes] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        writer = scope["extensions"][EXTENSION]
        await receive()
        writer.hold_head()
        await send({"type": "websocket.accept", "headers": [(b"x-mark", b"1")]})
        heads.extend(writer.take_head() for _ in range(2))
        writer.write(b"".join(heads) + b"\x81\x02hi")
        await send({"type": "websocket.close"})

    assert await ask(serve, app, lambda wire: (wire.send(upgrade()).answer().headers["x-mark"], wire.frame())) == ("1", (TEXT, b"hi"))
    assert [head[:12] for head in heads] == [b"HTTP/1.1 101", b""]


async def test_an_application_that_fails_after_it_has_closed_sends_no_second_close_frame(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4321})
        raise ZeroDivisionError

    assert await talk(serve, app, lambda wire: (wire.close_code(), wire.send(frame(b"\x10\xe1", opcode=CLOSE)).rest())) == (4321, b"")


async def test_a_message_that_has_no_place_is_an_error(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with pytest.raises(RuntimeError, match=r"websocket\.accept"):
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4321})

    assert await talk(serve, app, lambda wire: wire.close_code()) == 4321


async def test_an_application_that_returns_without_a_goodbye_ends_the_connection(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    assert await talk(serve, app, lambda wire: wire.rest()) == b""


async def test_an_application_that_closes_and_returns_leaves_the_client_time_to_answer(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4321})

    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(app))
    writer.write(upgrade())
    await reader.readuntil(b"\x88\x02\x10\xe1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    writer.write(frame(b"\x10\xe1", opcode=CLOSE))

    assert await reader.read() == b""
    writer.close()


async def test_the_answer_to_a_close_frame_is_read_though_messages_wait_before_it(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        direct = scope["extensions"][EXTENSION]
        await until(lambda: direct._messages)
        await send({"type": "websocket.close", "code": 4321})
        await until(lambda: direct._state == sockets.CLOSED, transport_writer.CLOSE_SECONDS / 2)

    def client(wire: Wire) -> list[Any]:
        return [wire.send(frame(b"1")).frame(), wire.send(frame(b"\x10\xe1", opcode=CLOSE)).frame()]

    assert await talk(serve, app, client) == [(CLOSE, b"\x10\xe1"), None]


async def test_an_application_that_hears_of_its_clients_end_by_sending_leaves_nothing_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        ended.set()
        await send({"type": "websocket.send", "text": "too late"})

    port = await serve(app)
    await asyncio.to_thread(lambda: websocket(port).__exit__())
    async with asyncio.timeout(30):
        await ended.wait()
    await asyncio.sleep(0)

    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_server_knows_the_call_of_an_upgrade_as_long_as_it_lasts(serve: Serve) -> None:
    servers: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        servers.append(scope["extensions"][EXTENSION]._server)
        await listening(scope, receive, send)

    port = await serve(app)

    def client() -> int:
        with websocket(port):
            return len(servers[0].tasks)

    during = await asyncio.to_thread(client)
    await until(lambda: not servers[0].tasks)

    assert during == 1


async def test_an_application_may_close_what_was_closed_for_another_reason_meanwhile(serve: Serve) -> None:
    closed = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        await send({"type": "websocket.close", "code": 4401})
        closed.set()

    assert await talk(serve, app, lambda wire: wire.send(frame(b"x", masked=False)).close_code()) == 1002
    async with asyncio.timeout(30):
        await closed.wait()


async def staying(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that returns, and then echoes each message; ``end`` closes the connection."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[-1]})
    direct = scope["extensions"][EXTENSION]
    scope["state"].setdefault("gone", [])
    waiting: list[dict[str, Any]] = []
    tasks: set[asyncio.Task[None]] = set()

    async def answer(message: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        assert waiting == [message]  # one at a time
        await send({"type": "websocket.send", "text": message["text"] + "!"} if message["text"] != "end" else {"type": "websocket.close"})
        waiting.clear()
        direct.message_done()

    def hear(message: dict[str, Any]) -> None:
        waiting.append(message)
        task = asyncio.ensure_future(answer(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    assert direct.detach(hear)


async def listening(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that does not return before the client has left."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def test_a_connection_may_outlive_the_call_and_takes_one_message_after_the_other(serve: Serve) -> None:
    def client(wire: Wire) -> list[Any]:
        answer = wire.send(upgrade("/", "Sec-WebSocket-Protocol: a, b")).answer()
        wire.send(frame(b"1") + frame(b"2") + frame(b"", opcode=PING) + frame(b"3"))
        received = [wire.frame() for _ in range(4)]
        wire.send(frame(b"end"))
        received.append(wire.frame())
        wire.send(frame(b"\x03\xe8", opcode=CLOSE))
        return [answer.headers["sec-websocket-protocol"], *received, wire.rest()]

    assert await ask(serve, staying, client) == ["b", (PONG, b""), (1, b"1!"), (1, b"2!"), (1, b"3!"), (CLOSE, b"\x03\xe8"), b""]


async def test_an_application_waits_for_a_client_that_reads_slowly(serve: Serve) -> None:
    waited = False

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal waited
        await receive()
        await send({"type": "websocket.accept"})
        while not waited:
            await send({"type": "websocket.send", "text": "x" * 60_000})
            waited = scope["extensions"][EXTENSION]._drained is not None
        await send({"type": "websocket.send", "text": "last"})

    def client(wire: Wire) -> tuple[int, bytes] | None:
        while (found := wire.frame()) is not None and len(found[1]) == 60_000:
            pass
        return found

    assert await talk(serve, app, client) == (1, b"last")
    assert waited


async def test_the_next_message_waits_for_the_end_of_the_one_in_hand_though_the_client_has_room_again(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    while_in_hand: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        direct = scope["extensions"][EXTENSION]

        def hear(message: dict[str, Any]) -> None:
            heard.append(message["text"])
            if len(heard) == 1:
                while direct._drained is None:
                    direct.write(b"\x81\x7e\xea\x60" + b"x" * 60_000)
                direct.on_room = has_room
            else:
                direct.write(b"\x81\x04last")

        def has_room() -> None:
            asyncio.get_running_loop().call_later(0.05, end)

        def end() -> None:
            while_in_hand.set_result(len(heard))
            direct.message_done()

        assert direct.detach(hear)

    def client(wire: Wire) -> tuple[int, bytes] | None:
        wire.send(frame(b"1") + frame(b"2"))
        while (found := wire.frame()) is not None and len(found[1]) == 60_000:
            pass
        return found

    assert await talk(serve, app, client) == (1, b"last")
    assert await while_in_hand == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_messages_that_are_handled_at_once_do_not_stop_the_next_ones(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        direct = scope["extensions"][EXTENSION]

        def answer(message: dict[str, Any]) -> None:
            direct.write(b"\x81\x01" + message["text"].encode())
            direct.message_done()

        assert direct.detach(answer)

    answers = await talk(serve, app, lambda wire: [wire.send(frame(text)).frame() for text in (b"1", b"2", b"3")])

    assert answers == [(1, b"1"), (1, b"2"), (1, b"3")]


async def test_a_message_that_came_before_the_call_was_left_is_passed_on(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        direct = scope["extensions"][EXTENSION]
        while not direct._messages:
            await asyncio.sleep(0.001)
        assert direct.detach(lambda message: direct.write(b"\x81\x01" + message["text"].encode()))

    assert await talk(serve, app, lambda wire: wire.send(frame(b"1")).frame()) == (1, b"1")


async def test_an_application_learns_the_code_and_reason_of_a_close(serve: Serve) -> None:
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        told.set_result(await receive())

    assert await talk(serve, app, lambda wire: wire.send(frame(b"\x10\xe1done", opcode=CLOSE)).close_code()) == 4321
    async with asyncio.timeout(30):
        assert await told == {"type": "websocket.disconnect", "code": 4321, "reason": "done"}


@pytest.mark.parametrize("app", [staying, listening])
async def test_the_close_frame_of_a_client_is_answered_once(serve: Serve, app: Any) -> None:
    answers = await talk(serve, app, lambda wire: [wire.send(frame(b"\x03\xe8", opcode=CLOSE)).frame(), wire.rest()])

    assert answers == [(CLOSE, b"\x03\xe8"), b""]


async def test_a_client_that_left_before_stay_was_called_is_reported(serve: Serve) -> None:
    outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        outcome.set_result(scope["extensions"][EXTENSION].detach(print))

    port = await serve(app)
    await asyncio.to_thread(lambda: websocket(port).__exit__())

    async with asyncio.timeout(30):
        assert await outcome is False


async def test_a_client_that_does_not_answer_a_close_is_cut_soon(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "CLOSE_SECONDS", 0.05)
    assert await talk(serve, staying, lambda wire: wire.send(frame(b"end")).rest()) == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("who", ["application", "client"])
async def test_a_client_that_does_not_take_the_close_frame_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    monkeypatch.setattr(sockets, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(transport_writer, "CLOSE_SECONDS", 0.05)
    connections: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        direct = scope["extensions"][EXTENSION]
        await fill_kernel(direct.transport.get_extra_info("socket").fileno())
        connections.append(direct)
        if who == "application":
            await send({"type": "websocket.close"})
        await receive()

    port = await serve(app)
    with await asyncio.to_thread(websocket, port) as wire:
        await until(lambda: bool(connections))
        if who == "client":
            wire.send(frame(b"\x03\xe8", opcode=CLOSE))

        await until(lambda: connections[0] not in connections[0]._server.connections)


async def fill_kernel(descriptor: int) -> None:
    """Write to a socket, past its transport, until the kernel takes no more."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        refused = 0
        while refused < 3:  # what was on its way may have made room
            try:
                sock.send(bytes(65_536))
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0.05)


async def test_a_client_that_violates_the_protocol_and_goes_on_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LINGER_SECONDS", 0.05)
    connections: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connections.append(scope["extensions"][EXTENSION])
        await staying(scope, receive, send)

    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(app))
    writer.write(upgrade())
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(b"x", masked=False) + frame(b"never heard"))
    goodbye = await reader.read()

    async with asyncio.timeout(30):
        while not connections[0].transport.is_closing():
            writer.write(frame(b"still talking"))
            await asyncio.sleep(0.01)
    assert goodbye[:4] == b"\x88\x13\x03\xea"
    writer.close()
