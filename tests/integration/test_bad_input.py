"""Whatever a client sends, it gets a clear answer in time, there is no traceback, and the next client is served."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.figures import figures_now
from tests.support.kernel import IS_LINUX
from tests.support.servers import Server, running_gateway
from tests.support.waiting import eventually
from tests.support.wire import BINARY, CLOSE, PING, PONG, Wire, frame, request, resident_bytes, upgrade, websocket

MIB = 1_048_576
SECRET = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2VjcmV0"


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    with running_gateway(shared_redis_url, log_level="debug") as server:
        for _ in range(20):  # all that is made on first use
            httpx.get(server.http + "/livez")
            with websocket(server.port, "/ws?channel=a") as wire:
                wire.message()
        before = memory(server)
        yield server
        assert "Traceback" not in server.output(), server.output()
        assert SECRET not in server.output()
        assert memory(server) - before < 16 * MIB


@pytest.fixture(autouse=True)
def next_client_is_served(gateway: Server) -> Iterator[None]:
    yield
    with websocket(gateway.port, "/ws?channel=next") as wire:
        assert wire.message()["op"] == "ready"


def memory(server: Server) -> int:
    """The resident bytes of a gateway; 0 where that cannot be read."""
    return resident_bytes(server.process.pid) if IS_LINUX else 0


# Handshake and head

HEADS = {
    "no key": (upgrade(drop="Sec-WebSocket-Key"), 400),
    "two keys": (upgrade("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
    "key of 15 bytes": (upgrade("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j", drop="Sec-WebSocket-Key"), 400),
    "key not base64": (upgrade("/ws", "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==", drop="Sec-WebSocket-Key"), 400),
    "version 8": (upgrade("/ws", "Sec-WebSocket-Version: 8", drop="Sec-WebSocket-Version"), 426),
    "no version": (upgrade(drop="Sec-WebSocket-Version"), 400),
    "two versions": (upgrade("/ws", "Sec-WebSocket-Version: 13"), 400),
    "POST upgrade": (upgrade(method="POST"), 400),
    "HTTP/1.0 upgrade": (upgrade(version="HTTP/1.0"), 400),
    "upgrade with a body": (upgrade("/ws", "Content-Length: 5") + b"hello", 400),
    "upgrade with a body that has not come": (upgrade("/ws", "Content-Length: 5"), 400),
    "upgrade with chunks": (upgrade("/ws", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "frames behind the upgrade": (upgrade() + frame(b"{}"), 400),
    "two Origins": (upgrade("/ws", "Origin: http://a", "Origin: http://b"), 400),
    "no upgrade": (request("/ws"), 426),
    "upgrade to something else": (request("/ws", "Upgrade: h2c", "Connection: Upgrade"), 426),
    "upgrade elsewhere": (upgrade("/livez"), 404),
    "no Host": (request(host=None), 400),
    "no Host, upgrade": (upgrade(host=None), 400),
    "two Hosts": (request("/livez", "Host: b"), 400),
    "two Hosts, upgrade": (upgrade("/ws", "host: a"), 400),
    **{f"Host {host!r}": (request(host=host), 400) for host in ("a/b", "a?x", "")},
    "address of 100 kB": (request("/livez?" + "x" * 100_000), 414),
    "address of 100 kB, upgrade": (upgrade("/ws?" + "x" * 100_000), 414),
    "address of 40 kB": (request("/livez?" + "x" * 40_000), 414),
    "address of 100 kB without an end": (b"GET /" + b"x" * 100_000, 414),
    "header of 100 kB": (request("/livez", "X-A: " + "x" * 100_000), 431),
    "header of 100 kB, upgrade": (upgrade("/ws", "X-A: " + "x" * 100_000), 431),
    "header of 100 kB without an end": (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 100_000, 431),
    "2,000 headers": (request("/livez", *["X-A: b"] * 2_000), 431),
    "2,000 headers, upgrade": (upgrade("/ws", *["X-A: b"] * 2_000), 431),
    "100 kB of line breaks": (b"\r\n" * 50_000, 431),
    "bare LF": (b"GET /livez HTTP/1.1\nHost: a\n\n", 400),
    "bare LF between headers": (b"GET /livez HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n", 400),
    "bare CR": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX-A: a\rb\r\n\r\n", 400),
    "NUL in a header": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX-A: a\x00b\r\n\r\n", 400),
    "NUL in the address": (b"GET /livez\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "byte 255 in the address": (b"GET /livez\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "byte 255 in the query": (b"GET /livez?\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "byte 255 in an upgrade's query": (upgrade("/ws?\xff"), 400),
    "fragment in the address": (request("/livez#top"), 400),
    "folded header": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX-A: a\r\n b\r\n\r\n", 400),
    "space before the colon": (b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "Content-Length with Transfer-Encoding": (
        request("/publish", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n",
        400,
    ),
    "two Content-Lengths": (request("/publish", "Content-Length: 1", "Content-Length: 2", method="POST"), 400),
    "Content-Length +5": (request("/publish", "Content-Length: +5", method="POST"), 400),
    "Content-Length -1": (request("/publish", "Content-Length: -1", method="POST"), 400),
    "Content-Length of 30 digits": (request("/publish", "Content-Length: " + "9" * 30, method="POST"), 400),
    "Transfer-Encoding not chunked": (request("/publish", "Transfer-Encoding: gzip", method="POST"), 400),
    "Transfer-Encoding chunked and more": (request("/publish", "Transfer-Encoding: chunked, identity", method="POST"), 400),
    "Transfer-Encoding in two headers": (
        request("/publish", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked", method="POST") + b"2\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    "chunk size with 0x": (request("/publish", "Transfer-Encoding: chunked", method="POST") + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size without end": (request("/publish", "Transfer-Encoding: chunked", method="POST") + b"f" * 20 + b"\r\n", 400),
    "400 kB of chunk extension": (request("/publish", "Transfer-Encoding: chunked", method="POST") + b"1;" + b"x" * 400_000, 431),
    "400 kB of trailers": (
        request("/publish", "Transfer-Encoding: chunked", method="POST") + b"1\r\n[\r\n0\r\n" + b"X-A: b\r\n" * 50_000,
        431,
    ),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2 by name": (request(version="HTTP/2.0"), 400),
    "HTTP/0.9 by name": (request(version="HTTP/0.9"), 400),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", 400),
    "HTTP/3.0": (request(version="HTTP/3.0"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32, 400),
    "unknown method": (request(method="BREW"), 400),
    "CONNECT": (request("a:443", method="CONNECT"), 400),
    "method not allowed": (request(method="DELETE"), 405),
    "a poll that posts": (request("/poll?channel=a&wait=0", method="POST"), 405),
    "an event stream that posts": (request("/sse?channel=a", method="POST"), 405),
    "nothing there": (request("/../etc/passwd"), 404),
    "percent-encoded nonsense": (request("/%00%ff%2e%2e"), 404),
}


@pytest.mark.parametrize(("data", "status"), HEADS.values(), ids=HEADS.keys())
def test_a_bad_head_is_answered(gateway: Server, data: bytes, status: int) -> None:
    with Wire(gateway.port) as wire:
        answer = wire.send(data).answer()

    assert answer.status == status
    assert answer.problem()["detail"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(method="HEAD", version="HTTP/2.0"), 400),
        (request("/" + "x" * 100_000, method="HEAD"), 414),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 100_000, 431),
        (upgrade().replace(b"GET", b"HEAD"), 400),
        (request() + request(method="HEAD", version="HTTP/2.0"), 200),
    ],
    ids=["version", "address", "no end", "upgrade", "second request"],
)
def test_the_refusal_of_a_bad_head_request_has_no_body(gateway: Server, data: bytes, status: int) -> None:
    with Wire(gateway.port) as wire:
        text = wire.send(data).rest()

    assert text.startswith(b"HTTP/1.1 %d" % status)
    assert text.endswith(b"\r\n\r\n")


def test_what_is_no_request_is_told_so_after_a_head_request_too(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        text = wire.send(request(method="HEAD") + b"\x16\x03\x01").rest()

    assert b'"status":400' in text


@pytest.mark.parametrize("name", ["address of 100 kB without an end", "header of 100 kB without an end"])
def test_who_sends_a_head_without_an_end_is_told_the_limit(gateway: Server, name: str) -> None:
    with Wire(gateway.port) as wire:
        answer = wire.send(HEADS[name][0]).answer()

    assert answer.problem()["detail"].endswith("at most 65536 are allowed")


def test_a_wrong_websocket_version_is_answered_with_the_right_one(gateway: Server) -> None:
    data, _ = HEADS["version 8"]
    with Wire(gateway.port) as wire:
        answer = wire.send(data).answer()

    assert (answer.headers["sec-websocket-version"], answer.headers["upgrade"]) == ("13", "websocket")


@pytest.mark.parametrize("name", ["no Host", "header of 100 kB", "no key", "address of 100 kB", "frames behind the upgrade"])
def test_after_a_bad_head_the_connection_is_closed(gateway: Server, name: str) -> None:
    with Wire(gateway.port) as wire:
        answer = wire.send(HEADS[name][0]).answer()

        assert "close" in answer.headers["connection"]
        assert wire.rest() == b""


def test_a_client_that_leaves_in_the_middle_of_a_head_or_body_leaves_nothing_behind(gateway: Server) -> None:
    for data in (b"", b"GET", request()[:-2], request("/publish", "Content-Length: 9", method="POST") + b"{", upgrade()[:-1]):
        with Wire(gateway.port) as wire:
            assert b"200 OK" not in wire.send(data).end().rest()


ODD = {
    "lower case": upgrade().replace(b"Upgrade: websocket", b"upgrade: WebSocket"),
    "keep-alive, Upgrade": upgrade().replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
    "absolute address": upgrade("http://a/ws"),
    "empty header": upgrade("/ws", "X-Empty:"),
    "white space around a value": upgrade().replace(b"Host: a", b"Host:\t a \t").replace(b"13\r\n", b"13 \r\n"),
    "leading line break": b"\r\n" + upgrade(),
    "Content-Length 0": upgrade("/ws", "Content-Length: 0"),
    "Host with port": upgrade(host="example.org:8000"),
    "Host as IPv6": upgrade(host="[::1]:8000"),
    "128 long channels in the address": upgrade("/ws?" + "&".join(f"channel=a:{i:03}{'b' * 120},now" for i in range(128))),
    "150 headers": upgrade("/ws", *["X-A: b"] * 140),
    "cookies of 30 kB": upgrade("/ws", "Cookie: a=" + "b" * 30_000),
    "extension offered": upgrade("/ws", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
    "subprotocol offered": upgrade("/ws", "Sec-WebSocket-Protocol: chat"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_unusual_but_valid_requests_are_accepted(gateway: Server, data: bytes) -> None:
    with Wire(gateway.port) as wire:
        answer = wire.send(data).answer()

        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers
        assert wire.send(frame(b"x", PING)).send(frame(b"", CLOSE)).close_code() != 1006


def test_a_head_that_arrives_byte_by_byte_is_accepted(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        for byte in upgrade():
            wire.send(bytes([byte]))

        assert wire.answer().status == 101


def test_http_1_0_without_host_is_served(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        answer = wire.send(request(version="HTTP/1.0", host=None)).answer()

        assert answer.status == 200
        assert wire.rest() == b""


def test_expect_100_continue_is_told_to_continue_only_where_the_body_is_wanted(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        wire.send(request("/publish", "Expect: 100-continue", "Content-Length: 2", method="POST"))
        assert wire.answer().status == 100
        assert wire.send(b"{}").answer().status == 422
    with Wire(gateway.port) as wire:
        wire.send(request("/publish", "Expect: 100-continue", "Content-Length: 99999999", method="POST"))
        assert wire.answer().status == 413


def test_a_body_that_nobody_reads_does_not_become_the_next_request(gateway: Server) -> None:
    smuggled = request("/livez")
    with Wire(gateway.port) as wire:
        wire.send(request("/nothing", f"Content-Length: {len(smuggled)}", method="POST"))
        assert wire.answer().status == 404
        wire.send(smuggled).send(request("/readyz"))

        assert wire.answer().body == b'{"status":"ready"}'


def test_too_many_requests_sent_ahead_are_cut(gateway: Server) -> None:
    before = memory(gateway)
    with Wire(gateway.port) as wire:
        wire.send(request("/poll?channel=a&wait=30") + request("/livez") * 10_000).rest()
    assert memory(gateway) - before <= MIB
    with Wire(gateway.port) as wire:
        assert wire.send(request("/poll?channel=a&wait=30") + request("/livez") * 9).answer().status == 400


def test_a_stream_with_garbage_behind_it_is_cut(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        wire.send(request("/sse?channel=a") + b"garbage\r\n\r\n")

        wire.rest()
    until_no_streams(gateway)


def test_a_stream_ends_with_its_client_though_more_was_sent_ahead(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        wire.send(request("/sse?channel=a") + request("/livez"))
        assert b"200 OK" in wire.take(15)
        assert figures_now(gateway.http)["gateway_connections{sse}"] == 1

    until_no_streams(gateway)


def until_no_streams(gateway: Server) -> None:
    assert eventually(lambda: not figures_now(gateway.http)["gateway_connections{sse}"])


def test_an_upgrade_during_a_stream_is_cut(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        wire.send(request("/sse?channel=a"))
        assert b"200 OK" in wire.take(15)
        wire.send(upgrade())

        assert b"HTTP/1.1 101" not in wire.rest()  # the numbers of a stream may hold those digits


def test_a_body_of_10_mb_is_refused_before_it_is_read(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        assert wire.send(request("/publish", f"Content-Length: {10 * MIB}", method="POST")).answer().status == 413


# Channels and cursors

QUERIES = {
    "empty": "channel=",
    "star": "channel=*",
    "pattern": "channel=[a-z]",
    "CR": "channel=a%0Db",
    "LF": "channel=a%0A",
    "NUL": "channel=a%00",
    "U+2028": "channel=" + quote("a\u2028"),
    "129 characters": "channel=" + "a" * 129,
    "not UTF-8": "channel=%ff",
    "comma first": "channel=,5",
    "129 channels": "&".join(f"channel=c{i}" for i in range(129)),
    "cursor garbage": "channel=a,x",
    "cursor of 20,000 digits": "channel=a," + "9" * 20_000,
    "twice with different cursors": "channel=a,1&channel=a,2",
    "since garbage": "channel=a&since=yesterday",
    "until garbage": "channel=a&until=never",
    "lastEventId garbage": "channel=a&lastEventId=1%0A2",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_a_bad_channel_or_cursor_is_refused(gateway: Server, query: str) -> None:
    statuses = [httpx.get(f"{gateway.http}/{path}?{query}").status_code for path in ("sse", "poll")]

    assert statuses == [400, 400]
    with websocket(gateway.port, f"/ws?{query}") as wire:
        assert wire.close_code() == 4400


def test_a_cursor_from_the_future_gives_what_is_there(gateway: Server) -> None:
    with websocket(gateway.port, "/ws?channel=future,9007199254740000") as wire:
        assert wire.message()["op"] in ("gap", "ready")


def test_6_000_channels_in_one_command_are_refused_and_the_connection_lives_on(gateway: Server) -> None:
    channels = ",".join(f'"{i:x}":0' for i in range(6_000))
    with websocket(gateway.port) as wire:
        error = wire.send(frame(f'{{"op":"subscribe","ref":1,"channels":{{{channels}}}}}'.encode())).message()

        assert (error["op"], error["status"], error["ref"]) == ("error", 400, 1)
        assert wire.send(frame(b'{"op":"ping"}')).message() == {"op": "pong"}


# Publishing


def event(**fields: Any) -> bytes:
    return json.dumps({"channel": "bad", **fields}).encode()


BODIES = {
    "type of 65 characters": (event(type="a" * 65), 422),
    "Infinity": (b'{"channel":"bad","data":-Infinity}', 400),
    "data missing its end": (b'{"channel":"bad","data":{"a":1}', 400),
    "a number": (b"1", 422),
    "ttl a text": (event(ttl="1"), 422),
    "key of 10 kB": (event(key="k" * 10_000), 422),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES.keys())
def test_a_bad_event_is_refused(gateway: Server, body: bytes, status: int) -> None:
    answer = httpx.post(gateway.http + "/publish", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_line_breaks_in_data_stay_in_one_sse_event(gateway: Server) -> None:
    body = b'{"channel":"breaks","data":"a\\r\\nb\\u2028\\ndata: c","type":"t"\r\n\r\n}'
    assert httpx.post(gateway.http + "/publish", content=body).status_code == 200
    with Wire(gateway.port) as wire:
        wire.send(request("/sse?channel=breaks"))
        seen = b""
        while b"event: ready" not in seen:
            seen += wire.take(1)

    assert seen.count(b"\ndata: ") == 1
    assert seen.count(b"\r\n\r\n") >= 1
    assert b"\ndata: c" not in seen


# Frames

SUBSCRIBE = b'{"op":"subscribe","channels":{"a":"now"},"ref":7}'

FRAMES = {
    "unmasked": (frame(SUBSCRIBE, masked=False), 1002),
    "reserved bit 1, not negotiated": (frame(SUBSCRIBE, reserved=4), 1002),
    "reserved bit 2": (frame(SUBSCRIBE, reserved=2), 1002),
    "reserved bit 3": (frame(SUBSCRIBE, reserved=1), 1002),
    **{f"unknown opcode {code}": (frame(b"", code), 1002) for code in (3, 7, 11, 15)},
    "ping of 126 bytes": (frame(b"x" * 126, PING), 1002),
    "fragmented ping": (frame(b"x", PING, fin=False), 1002),
    "fragmented close": (frame(b"\x03\xe8", CLOSE, fin=False), 1002),
    "orphan continuation": (frame(b"x", 0), 1002),
    "text within fragments": (frame(b"a", fin=False) + frame(b"b"), 1002),
    "bad UTF-8": (frame(b"\xce\xba\xff"), 1007),
    "surrogate in UTF-8": (frame(b"\xed\xa0\x80"), 1007),
    "bad UTF-8 over two fragments": (frame(b"\xce", fin=False) + frame(b"\xce", 0), 1007),
    "bad UTF-8 twice": (frame(b"\xff") + frame(b"\xff") + frame(b'{"op":"ping"}'), 1007),
    "close of one byte": (frame(b"\x03", CLOSE), 1002),
    **{
        f"close with {code}": (frame(code.to_bytes(2, "big"), CLOSE), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
    },
    "close with bad UTF-8": (frame(b"\x03\xe8\xff", CLOSE), 1007),
    "close in the midst of fragments": (frame(b"a", fin=False) + frame(b"\x03\xe8", CLOSE), 1002),
    "65,537 bytes": (frame(b" " * 65_537), 1009),
    "65,537 bytes in fragments": (frame(b" " * 60_000, fin=False) + frame(b" " * 5_537, 0), 1009),
    "a length of 2^62, alone": (b"\x81\xff" + (2**62).to_bytes(8, "big"), 1009),
    "a length of 2^63": (b"\x81\xff" + (2**63).to_bytes(8, "big"), 1009),
    "5 bytes in a length of 2": (frame(b"     ", form=2), 1002),
    "binary": (frame(b"\x00", BINARY), 1003),
    "text, then nonsense": (frame(SUBSCRIBE) + b"\xff\xff", 1002),
    "1,000 commands": (frame(b'{"op":"ping"}') * 1_000, 1008),
    "1,000 commands in several reads": ((frame(b'{"op":"nonsense","x":"' + b"x" * 900 + b'"}')) * 1_000, 1008),
    "20,000 empty messages": (frame(b"") * 20_000, 1008),
    "100,000 fragments of one byte": (frame(b"x", fin=False) + frame(b"x", 0, fin=False) * 100_000, 1008),
    "100,000 fragments of none": (frame(b"", fin=False) + frame(b"", 0, fin=False) * 100_000, 1008),
    "50,000 pings, none of their pongs read": (frame(b"x" * 125, PING) * 50_000, 1008),
    "50,000 pongs": (frame(b"", PONG) * 50_000, 1008),
}


@pytest.mark.parametrize(("data", "code"), FRAMES.values(), ids=FRAMES.keys())
def test_a_bad_frame_ends_the_connection_with_its_code(gateway: Server, data: bytes, code: int) -> None:
    before = memory(gateway)
    with websocket(gateway.port) as wire:
        assert wire.send(data).close_code() == code
    assert memory(gateway) - before <= MIB


def test_closing_a_client_that_is_already_gone_does_no_harm(gateway: Server) -> None:
    with websocket(gateway.port) as other:
        for data in (frame(b"", BINARY), frame(b'{"op":"ping"}') * 400):
            for end in (frame(b"\x03\xe8", CLOSE), frame(b"", 3)):
                with websocket(gateway.port) as wire:
                    wire.send(data + end).rest()

        assert other.send(frame(b'{"op":"ping"}')).message() == {"op": "pong"}
    assert "Traceback" not in gateway.output()


def test_answers_to_a_client_that_does_not_read_are_not_buffered_and_none_is_lost(gateway: Server) -> None:
    channels = "&".join(f"channel={number:0128}" for number in range(128))  # 19 KB in each answer
    commands = [frame(b'{"op":"unsubscribe","channels":["none"],"ref":%d}' % number + b" " * 65_000) for number in range(250)]
    before = memory(gateway)
    with websocket(gateway.port, f"/ws?since=now&{channels}", receive_buffer=65_536) as wire:
        wire.message()
        sender = threading.Thread(target=wire.send, args=[b"".join(commands)])
        sender.start()
        sender.join(1)
        grown = memory(gateway) - before
        answers = [wire.message() for _ in range(250)]
        sender.join()

    assert grown <= 2 * MIB
    assert [answer["ref"] for answer in answers] == list(range(250))
    assert {len(answer["channels"]) for answer in answers} == {128}


COMMANDS = {
    "half JSON": b'{"op":',
    "JSON with a tail": b'{"op":"ping"}{}',
    "null": b"null",
    "op a number": b'{"op":1}',
    "depth 20,000": b"[" * 20_000,
    "objects 10,000 deep": b'{"a":' * 10_000,
    "lone surrogate": b'{"op":"\\ud800"}',
    "channels none": b'{"op":"subscribe","channels":{}}',
    "channel a pattern": b'{"op":"subscribe","channels":{"*":null}}',
    "channel with NUL": b'{"op":"subscribe","channels":{"a\\u0000":null}}',
    "channel with U+2028": b'{"op":"subscribe","channels":{"\\u2028":null}}',
    "cursor negative": b'{"op":"subscribe","channels":{"a":"-5"}}',
    "cursor of 60,000 digits": b'{"op":"subscribe","channels":{"a":"' + b"9" * 60_000 + b'"}}',
    "ref a huge number": b'{"op":"ping","ref":1e999}',
    "unsubscribe an object": b'{"op":"unsubscribe","channels":{}}',
    "unsubscribe a pattern": b'{"op":"unsubscribe","channels":["*"]}',
    "unsubscribe 12,000 times": b'{"op":"unsubscribe","channels":["a"' + b',"a"' * 12_000 + b"]}",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_bad_command_gets_an_error_and_the_connection_lives_on(gateway: Server, command: bytes) -> None:
    with websocket(gateway.port) as wire:
        error = wire.send(frame(command)).message()

        assert (error["op"], error["status"]) == ("error", 400)
        assert len(json.dumps(error)) < 500
        assert wire.send(frame(b'{"op":"ping"}')).message() == {"op": "pong"}


GOOD = {
    "fragmented": frame(SUBSCRIBE[:5], fin=False) + frame(SUBSCRIBE[5:9], 0, fin=False) + frame(SUBSCRIBE[9:], 0),
    "ping between fragments": frame(SUBSCRIBE[:5], fin=False) + frame(b"x" * 125, PING) + frame(SUBSCRIBE[5:], 0),
    "empty fragments": frame(b"", fin=False) + frame(b"", 0, fin=False) + frame(SUBSCRIBE, 0),
    "a character over two fragments": frame(b'{"x":"\xc3', fin=False) + frame(b'\xa9",' + SUBSCRIBE[1:], 0),
    "a length of 2": frame(SUBSCRIBE + b" " * 200),
    "a length of 2, the greatest": frame(SUBSCRIBE + b" " * (65_535 - len(SUBSCRIBE))),
    "a length of 8, the least": frame(SUBSCRIBE + b" " * (65_536 - len(SUBSCRIBE))),
    "50 fragments": frame(b"", fin=False) + frame(b" ", 0, fin=False) * 50 + frame(SUBSCRIBE, 0),
    "pong nobody asked for": frame(b"x", PONG) + frame(SUBSCRIBE),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_unusual_but_valid_frames_are_accepted(gateway: Server, data: bytes) -> None:
    with websocket(gateway.port) as wire:
        assert wire.send(data).message() == {"op": "ready", "ref": 7, "channels": {"a": wire_cursor(gateway)}}


def wire_cursor(gateway: Server) -> str:
    channels: dict[str, str] = httpx.get(f"{gateway.http}/poll?channel=a&wait=0&since=now").json()["channels"]
    return channels["a"]


@pytest.mark.parametrize("pause", [0.0, 0.002], ids=["at once", "byte by byte"])
def test_a_fragmented_command_is_accepted(gateway: Server, pause: float) -> None:
    data = frame(SUBSCRIBE + b" " * 200)
    with websocket(gateway.port) as wire:
        for byte in data[:20]:
            wire.send(bytes([byte]))
            time.sleep(pause)

        assert wire.send(data[20:]).message()["ref"] == 7


def test_a_ping_is_answered_with_its_payload(gateway: Server) -> None:
    with websocket(gateway.port) as wire:
        assert wire.send(frame(b"x" * 125, PING)).frame() == (PONG, b"x" * 125)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9bye", b"\x0b\xb8", b"\x13\x87" + b"x" * 123])
def test_a_close_is_echoed(gateway: Server, payload: bytes) -> None:
    with websocket(gateway.port) as wire:
        assert wire.send(frame(payload, CLOSE)).frame() == (CLOSE, payload)
        assert wire.frame() is None


def test_tokens_in_an_address_are_not_logged(gateway: Server) -> None:
    for target in (f"/ws?channel=a&token={SECRET}", f"/ws?channel=*&token={SECRET}"):
        with websocket(gateway.port, target) as wire:
            wire.frame()
    for data in (f"/sse?channel=*&token={SECRET}", f"/nothing?token={SECRET}", f"/livez?token={SECRET}#", f"/livez?token={SECRET}\xff"):
        with Wire(gateway.port) as wire:
            assert SECRET.encode() not in wire.send(request(data)).answer().body

    assert SECRET not in gateway.output()
