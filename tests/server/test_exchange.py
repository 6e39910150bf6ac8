"""HTTP requests and responses, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import pytest

from gateway.server import heads, site
from gateway.server.exchange import HIGH_BODY_BYTES
from gateway.server.protocols import HttpProtocol
from gateway.transports.writer import EXTENSION, HIGH_BYTES
from tests.server.conftest import Serve, ask
from tests.support.waiting import eventually, until
from tests.support.wire import Wire, request, upgrade


async def say(send: Any, body: bytes, *, status: int = 200, length: bool = True, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    fields = [*(headers or ()), *([(b"content-length", b"%d" % len(body))] if length else ())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body, more = body + message["body"], message["more_body"]
    return body


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with the path and the body; ``/chunks`` in two of them, ``/<number>`` with that status."""
    body = scope["path"].encode() + await body_of(receive)
    if scope["path"] == "/chunks":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
    elif scope["path"] in ("/204", "/304"):
        await say(send, b"unseen", status=int(scope["path"][1:]), length=False)
    else:
        await say(send, body)


def post(path: str, length: int, *lines: str) -> bytes:
    return request(path, f"Content-Length: {length}", *lines, method="POST")


async def test_a_connection_serves_one_request_after_the_other(serve: Serve) -> None:
    def client(wire: Wire) -> list[bytes]:
        return [wire.send(request(path)).answer().body for path in ("/a", "/b")] + [wire.send(request("/c", "Connection: close")).rest()]

    first, second, last = await ask(serve, echo, client)

    assert (first, second) == (b"/a", b"/b")
    assert b"\r\nconnection: close\r\n" in last
    assert last.endswith(b"\r\n\r\n/c")


async def test_the_size_limit_is_for_each_head_and_not_for_the_connection(serve: Serve) -> None:
    def client(wire: Wire) -> list[bytes]:
        return [wire.send(request("/a", "Cookie: " + "b" * 20_000)).answer().body for _ in range(5)]

    assert await ask(serve, echo, client) == [b"/a"] * 5


async def test_a_later_head_must_come_in_time_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "HEAD_SECONDS", 2.0)
    port = await serve(echo)

    def client() -> tuple[list[bytes], list[int]]:
        with Wire(port) as at_once, Wire(port) as later:
            at_once.send(request("/a") + b"GET /b HT")
            later.send(request("/a"))
            first = [wire.answer().body for wire in (at_once, later)]
            later.send(b"GET /b HT")
            return first, [wire.answer().status for wire in (at_once, later)]

    assert await asyncio.to_thread(client) == ([b"/a", b"/a"], [408, 408])


async def test_a_head_of_which_not_even_the_address_came_is_answered_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "HEAD_SECONDS", 0.3)

    assert await ask(serve, echo, lambda wire: wire.send(b"GE").answer().status) == 408


async def test_a_head_that_finds_a_bug_is_refused_and_the_log_says_where(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heads, "MAX_HEADERS", None)

    assert await ask(serve, echo, lambda wire: wire.send(request("/a")).answer().status) == 400
    assert "a request's head could not be taken" in caplog.text
    assert "TypeError" in caplog.text


@pytest.mark.parametrize("late", [b"", b"late"], ids=["after the answer", "after a body that came after the answer"])
async def test_an_idle_connection_is_closed(serve: Serve, late: bytes) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        site = receive.__self__._http.site
        site.idle.seconds = 0.05
        await say(send, b"done")

    def client(wire: Wire) -> tuple[bytes, bytes]:
        return wire.send(post("/", len(late))).answer().body, wire.send(late).rest()

    assert await ask(serve, app, client) == (b"done", b"")


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    def client(wire: Wire) -> list[bytes]:
        ahead = (
            request("/1", "Content-Length: 2", method="POST")
            + b"ab"
            + request("/2")
            + request("/3", "Transfer-Encoding: chunked", method="POST")
            + b"1\r\nc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        wire.send(ahead)
        return [wire.answer().body for _ in range(3)]

    assert await ask(serve, echo, client) == [b"/1ab", b"/2", b"/3cde"]


@pytest.mark.parametrize(
    "wrong",
    [
        b"what is this\r\n\r\n",
        request("/c", host=None),
        post("/c", 2, "Transfer-Encoding: chunked"),
        upgrade("/c"),
        upgrade("/c") + b"early",
    ],
)
async def test_an_error_comes_after_the_answers_to_earlier_requests(serve: Serve, wrong: bytes) -> None:
    def client(wire: Wire) -> tuple[list[bytes], int, bytes]:
        wire.send(post("/a", 2) + b"xy" + request("/b") + wrong)
        return [wire.answer().body for _ in range(2)], wire.answer().status, wire.rest()

    assert await ask(serve, echo, client) == ([b"/axy", b"/b"], 400, b"")


async def test_a_request_that_breaks_off_does_not_prevent_the_answer_to_the_one_before(serve: Serve) -> None:
    head = request("/b", "Transfer-Encoding: chunked", method="POST")

    def client(wire: Wire) -> tuple[bytes, int, bytes]:
        wire.send(request("/a") + head + b"2\r\nxyzz")
        return wire.answer().body, wire.answer().status, wire.rest()

    assert await ask(serve, echo, client) == (b"/a", 400, b"")


async def test_an_upgrade_header_for_another_protocol_is_ignored(serve: Serve) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")

    def client(wire: Wire) -> list[bytes]:
        wire.send(post("/1", 2, *offer) + b"ab" + request("/2", *offer) + request("/3"))
        return [wire.answer().body for _ in range(3)]

    assert await ask(serve, echo, client) == [b"/1ab", b"/2", b"/3"]


@pytest.mark.parametrize(
    ("behind", "detail"),
    [(b"no request\r\n\r\n", b"Invalid method"), (request("/b", host="a/b"), b"header host")],
    ids=["no request", "no host"],
)
async def test_an_error_after_an_ignored_upgrade_is_answered(
    serve: Serve, caplog: pytest.LogCaptureFixture, behind: bytes, detail: bytes
) -> None:
    offered = request("/a", "Connection: Upgrade", "Upgrade: h2c")

    assert detail in await ask(serve, echo, lambda wire: wire.send(offered + behind).rest())
    assert "could not be taken" not in caplog.text


async def test_a_connection_header_that_only_looks_like_an_upgrade_is_answered(serve: Serve) -> None:
    head = upgrade("/a").replace(b"Connection: Upgrade", b"Connection: no-upgrade")

    assert await ask(serve, echo, lambda wire: wire.send(head).answer().body) == b"/a"


async def test_a_url_may_end_after_its_host(serve: Serve) -> None:
    assert await ask(serve, echo, lambda wire: wire.send(request("http://a")).answer().body) == b"/"


async def test_a_client_that_still_sends_its_body_is_not_reset_after_the_last_answer(serve: Serve) -> None:
    async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await say(send, b"no", status=401)

    def client() -> bytes:
        with socket.create_connection(("127.0.0.1", port), 30) as wire:
            wire.sendall(post("/a", 1_000_000, "Connection: close"))
            answer = b"".join(iter(lambda: wire.recv(65_536), b""))
            for _ in range(5):
                wire.sendall(b"x" * 1_000)  # nginx would answer 502 if this failed
                time.sleep(0.02)
            return answer

    port = await serve(refuse)
    assert (await asyncio.to_thread(client)).endswith(b"\r\n\r\nno")


async def test_a_client_that_has_half_closed_is_answered(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connection = receive.__self__._http
        if scope["path"] == "/b":  # before that, nothing more is read
            await until(lambda: connection._deadline is connection.site.lingering)  # which the client's end has set
        await echo(scope, receive, send)

    answer = await ask(serve, app, lambda wire: wire.send(request("/a") + request("/b")).end().rest())

    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.endswith(b"\r\n\r\n/b")


async def test_a_server_that_stops_answers_what_was_sent_ahead(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connection = receive.__self__._http
        if scope["path"] == "/a":
            while not connection._ahead:
                await asyncio.sleep(0.001)
            connection.shutdown()
        await echo(scope, receive, send)

    answers = await ask(serve, app, lambda wire: wire.send(request("/a") + request("/b")).rest())

    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.endswith(b"\r\n\r\n/b")


async def test_what_is_refused_while_an_answer_is_under_way_ends_it(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    def client(wire: Wire) -> bytes:
        begun = wire.send(request("/")).take(12)
        return begun + wire.send(b"what is this\r\n\r\n").rest()

    answer = await ask(serve, app, client)

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" not in answer


async def test_the_log_names_the_address_of_a_refused_client(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.edge")
    await ask(serve, echo, lambda wire: wire.send(b"what is this\r\n\r\n").rest())

    assert [vars(record)["about"] for record in caplog.records if record.name == "gateway.edge"] == [{"address": "127.0.0.1"}]


async def test_a_refused_client_that_stays_is_cut_soon(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "LINGER_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(echo))
    writer.write(b"what is this\r\n\r\n")
    answer = await reader.read()
    assert HttpProtocol._site
    state = HttpProtocol._site.state
    await until(lambda: not state.connections)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_has_half_closed_within_its_body_is_not_waited_for(serve: Serve) -> None:
    ended = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        receive.__self__._http.site.lingering.seconds = 60
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    assert await ask(serve, app, lambda wire: wire.send(post("/a", 2) + b"x").end().rest()) == b""
    async with asyncio.timeout(30):
        await ended.wait()


async def test_a_connection_on_which_an_answer_is_awaited_is_not_idle(serve: Serve) -> None:
    begun = threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        receive.__self__._http.site.idle.seconds = 0.01
        first = (await receive())["body"]
        begun.set()
        rest = await body_of(receive)
        await asyncio.sleep(0.1)
        await say(send, first + rest)

    def client(wire: Wire) -> bytes:
        wire.send(post("/a", 2) + b"x")
        begun.wait(10)
        return wire.send(b"y").answer().body

    assert await ask(serve, app, client) == b"xy"


async def test_a_body_of_unknown_length_is_sent_in_chunks(serve: Serve) -> None:
    answer = await ask(serve, echo, lambda wire: wire.send(request("/chunks", "Connection: close")).rest())

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize(("path", "whole"), [("/chunks", b"onetwo"), ("/a", b"/a")])
async def test_an_http_1_0_client_gets_no_chunks_and_the_connection_ends(serve: Serve, path: str, whole: bytes) -> None:
    answer = await ask(serve, echo, lambda wire: wire.send(request(path, "Connection: keep-alive", version="HTTP/1.0")).rest())

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == whole


@pytest.mark.parametrize(("path", "method"), [("/a", "HEAD"), ("/chunks", "HEAD"), ("/204", "GET"), ("/304", "GET")])
async def test_no_body_is_sent_where_none_is_allowed(serve: Serve, path: str, method: str) -> None:
    def client(wire: Wire) -> bytes:
        return wire.send(request(path, method=method) + request("/next", "Connection: close")).rest()

    head, _, rest = (await ask(serve, echo, client)).partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"\r\n\r\n/next")


async def test_a_body_is_passed_on_as_it_arrives_and_a_big_one_when_it_is_read(serve: Serve) -> None:
    sizes: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        transport = receive.__self__._http.transport
        await until(lambda: not transport.is_reading())
        body, more = b"", True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            body, more = body + message["body"], message["more_body"]
        await say(send, b"%d" % len(body))

    assert (await ask(serve, app, lambda wire: wire.send(post("/", 4_000_000) + b"x" * 4_000_000).answer())).body == b"4000000"
    assert len(sizes) > 4
    assert max(sizes) <= HIGH_BODY_BYTES + 262_144  # and one read of the loop's


async def test_the_end_of_a_body_may_come_after_the_rest_of_it(serve: Serve) -> None:
    came = threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        begun = (await receive())["body"]
        came.set()
        await say(send, begun + await body_of(receive))

    def client(wire: Wire) -> bytes:
        wire.send(request("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n")
        came.wait(5)
        return wire.send(b"0\r\n\r\n").answer().body

    assert await ask(serve, app, client) == b"a"


async def test_a_big_body_that_is_not_wanted_is_skipped(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await say(send, scope["path"].encode())

    def client(wire: Wire) -> list[bytes]:
        wire.send(post("/1", 3_000_000) + b"x" * 3_000_000 + request("/2"))
        return [wire.answer().body for _ in range(2)]

    assert await ask(serve, app, client) == [b"/1", b"/2"]


async def test_a_client_that_expects_100_continue_gets_it(serve: Serve) -> None:
    def client(wire: Wire) -> tuple[bytes, bytes]:
        wire.send(post("/", 2, "Expect: 100-continue"))
        told = wire.take(25)
        return told, wire.send(b"h").send(b"i").answer().body  # and is told so once

    assert await ask(serve, echo, client) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"/hi")


async def test_a_refused_client_gets_no_100_continue(serve: Serve) -> None:
    told: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        told.append(await receive())

    bad = request("/", "Expect: 100-continue", "Transfer-Encoding: chunked", method="POST") + b"no size\r\n"
    answer = await ask(serve, app, lambda wire: wire.send(bad).rest())

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert told == [{"type": "http.disconnect"}]


async def test_a_client_whose_body_is_not_wanted_gets_its_answer_instead_of_100_continue(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"n", "more_body": True})
        waiting = asyncio.ensure_future(receive())  # waits for the disconnect, as frameworks do
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"o"})
        await waiting

    def client(wire: Wire) -> tuple[int, bytes]:
        answer = wire.send(post("/", 2, "Expect: 100-continue")).answer()
        return answer.status, answer.body

    assert await ask(serve, app, client) == (403, b"no")


async def test_what_follows_an_answer_in_place_of_100_continue_is_taken_neither_for_a_body_nor_for_a_request(serve: Serve) -> None:
    asked: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await say(send, b"no")

    def client(wire: Wire) -> tuple[str, bytes]:
        answer = wire.send(post("/", 5_000, "Expect: 100-continue")).answer()
        return answer.headers["connection"], wire.send(request("/next")).rest()

    assert await ask(serve, app, client) == ("close", b"")
    assert asked == ["/"]


async def test_a_connection_serves_on_if_the_body_came_without_100_continue(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await say(send, scope["path"].encode())

    def client(wire: Wire) -> list[bytes]:
        wire.send(post("/1", 2, "Expect: 100-continue") + b"hi" + request("/2"))
        return [wire.answer().body for _ in range(2)]

    assert await ask(serve, app, client) == [b"/1", b"/2"]


async def test_after_the_answer_the_application_receives_a_disconnect(serve: Serve) -> None:
    seen: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        await say(send, b"done")
        seen.append((await receive())["type"])

    await ask(serve, app, lambda wire: wire.send(request("/")).answer())

    assert seen == ["http.request", "http.disconnect"]


async def test_an_application_whose_client_is_gone_receives_a_disconnect_and_may_send_on_or_stop(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        kind = (await receive())["type"]
        await send({"type": "http.response.body", "body": b"late", "more_body": True})
        seen.set_result(kind)

    await ask(serve, app, lambda wire: wire.send(request("/")).take(12))

    async with asyncio.timeout(30):
        assert await seen == "http.disconnect"
    assert caplog.text == ""


async def test_an_application_waits_for_a_client_that_reads_slowly(serve: Serve) -> None:
    waiting: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            waiting.append(scope["extensions"][EXTENSION].transport.get_write_buffer_size())
        await send({"type": "http.response.body", "body": b""})

    port = await serve(app)

    def client() -> int:
        with Wire(port, receive_buffer=65_536) as wire:
            wire.send(request("/", "Connection: close"))
            # Otherwise a thread that runs whenever something is sent reads all of it at once.
            assert eventually(lambda: max(waiting, default=0) > HIGH_BYTES)
            return len(wire.rest())

    assert await asyncio.to_thread(client) > 10_000_000
    assert HIGH_BYTES < max(waiting) < HIGH_BYTES + 101_000


async def test_an_application_that_waits_for_a_slow_client_goes_on_when_that_leaves(serve: Serve) -> None:
    full, went_on = threading.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not full.is_set():
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            if receive.__self__._http.drained is not None:
                full.set()
        await send({"type": "http.response.body", "body": b"late"})
        went_on.set()

    await ask(serve, app, lambda wire: (wire.send(request("/")), full.wait(10)))

    async with asyncio.timeout(30):
        await went_on.wait()


async def test_the_server_knows_the_call_of_a_request_as_long_as_it_lasts(serve: Serve) -> None:
    known: list[set[Any]] = []
    during: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        known.append(receive.__self__._http.site.state.tasks)
        during.append(len(known[0]))
        await say(send, b"done")

    await ask(serve, app, lambda wire: wire.send(request("/")).answer())
    await until(lambda: not known[0])

    assert during == [1]


BAD = {
    "nothing": b"500 ",
    "error": b"500 ",
    "line break": b"500 ",
    "body first": b"500 ",
    "head twice": b"500 ",
    "too long": b"500 ",
    "too short": b"500 ",
    "half": b"",
    "error within": b"",
}


@pytest.mark.parametrize("way", BAD)
async def test_an_application_that_fails_is_answered_for_or_its_connection_ends(
    serve: Serve, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body: dict[str, Any] = {"type": "http.response.body", "body": b"abc"}
        match way:
            case "nothing":
                return
            case "error":
                raise LookupError
            case "line break":
                await say(send, b"", headers=[(b"a", b"b\r\nc: d")])
            case "body first":
                await send(body)
            case "head twice":
                await send({"type": "http.response.start", "status": 200, "headers": []})
        length = {"too long": b"2", "too short": b"4", "head twice": b"3"}.get(way, b"9")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send(body | {"more_body": way in ("half", "error within")})
        if way == "error within":
            raise LookupError

    answer = await ask(serve, app, lambda wire: wire.send(request("/")).rest())

    if BAD[way]:
        assert answer.startswith(b"HTTP/1.1 " + BAD[way])
        assert answer.endswith(b"\r\n\r\nInternal Server Error")
    else:
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert "c: d" not in answer.decode()
    assert len([record for record in caplog.records if record.name == "gateway.edge"]) == 1


async def test_a_head_is_sent_together_with_the_first_part_of_its_body(serve: Serve) -> None:
    asked = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/error":
            raise LookupError
        await asked.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    loop = asyncio.get_running_loop()

    def client(wire: Wire) -> tuple[bytes, bytes]:
        wire.send(request("/"))
        with Wire(wire._socket.getpeername()[1]) as other:
            failed = other.send(request("/error")).take(12)
        loop.call_soon_threadsafe(asked.set)
        return failed, wire.take(12)

    assert await ask(serve, app, client) == (b"HTTP/1.1 500", b"HTTP/1.1 200")


async def test_sending_after_the_answer_is_an_error(serve: Serve) -> None:
    failed: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await say(send, b"done")
        with pytest.raises(RuntimeError, match=r"http\.response\.body") as caught:
            await send({"type": "http.response.body", "body": b"more"})
        failed.append(str(caught.value))

    assert (await ask(serve, app, lambda wire: wire.send(request("/")).answer())).body == b"done"
    assert failed
