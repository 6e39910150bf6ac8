"""Subscriptions that a gateway refuses, and those that a proxy or an overload gets in the way of."""

import asyncio
import ssl
import threading
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
import websockets.asyncio.server
from notify_client import Refused, issue_token, subscribe
from notify_client.streams import retry_after

from clients.python.tests.common import SECRET, take
from tests.support.tls import tls_before
from tests.support.waiting import until


async def test_a_token_and_other_headers_go_to_the_gateway_and_to_no_other_address(channel, transport, caplog):
    asked = []

    def redirect(connection, request):
        asked.append((request.headers["Authorization"], request.headers["X-Key"]))
        answer = connection.respond(302, "")
        answer.headers["Location"] = f"{'ws' if transport == 'ws' else 'http'}://127.0.0.1:{port(elsewhere)}/"
        return answer

    def port(server):
        return server.sockets[0].getsockname()[1]

    async with (
        websockets.asyncio.server.serve(None, "127.0.0.1", 0, process_request=lambda _, request: asked.append(request.path)) as elsewhere,
        websockets.asyncio.server.serve(None, "127.0.0.1", 0, process_request=redirect) as gateway,
        subscribe(
            f"http://127.0.0.1:{port(gateway)}", [channel], transport=transport, token="secret", headers={"X-Key": "for the proxy"}
        ) as events,
    ):
        following = asyncio.ensure_future(anext(events))
        await until(lambda: "no connection to the gateway" in caplog.text)
        following.cancel()

    assert set(asked) == {("Bearer secret", "for the proxy")}


async def test_over_tls_a_gateway_is_followed_whose_certificate_is_good_and_no_other(
    gateway, publisher, channel, transport, tmp_path, caplog
):
    id = publisher.publish(channel, "progress")
    async with asyncio.timeout(30), tls_before(gateway.port, tmp_path) as port:
        url = f"https://localhost:{port}"
        async with subscribe(url, [channel], transport=transport) as events:
            waiting = asyncio.ensure_future(anext(events))
            while "no connection to the gateway" not in caplog.text and not waiting.done():
                await asyncio.sleep(0.01)
            stranger = waiting.cancel()
        good = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        async with subscribe(url, [channel], transport=transport, ssl=good) as events:
            event = await anext(events)

    assert stranger
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert event.id == id


async def test_a_channel_that_is_not_allowed_is_refused_with_the_gateways_reason(guarded, transport):
    token = issue_token(SECRET, "ann")
    async with subscribe(guarded.http, ["jobs:7"], token=token, transport=transport) as events:
        with pytest.raises(Refused, match="channel 'jobs:7': the token does not allow it") as refused:
            await anext(events)

    assert refused.value.code in (403, 4403)


async def test_an_invalid_token_is_refused(guarded, transport):
    async with subscribe(guarded.http, ["user:ann"], token="garbage", transport=transport) as events:
        with pytest.raises(Refused) as refused:
            await anext(events)

    assert refused.value.code in (401, 4401)
    assert "garbage" not in str(refused.value)


async def test_the_token_function_is_called_once_more_and_no_further(guarded, transport):
    asked = []

    async def token():
        asked.append(1)
        return "garbage"

    async with subscribe(guarded.http, ["user:ann"], token=token, transport=transport) as events:
        with pytest.raises(Refused):
            await anext(events)

    assert len(asked) == 2


async def test_a_token_that_expires_is_renewed_and_nothing_is_lost(guarded, publisher, channel, transport):
    asked = []

    def token():  # an ordinary function, as one that asks a server and blocks
        asked.append(threading.current_thread())
        return issue_token(SECRET, "ann", subscribe=["t:*"], ttl=1)

    ids = []
    async with subscribe(guarded.http, [channel], token=token, since="0", transport=transport) as events:
        waiting = asyncio.ensure_future(take(events, 12))
        for number in range(12):
            ids.append(publisher.publish(channel, "progress", number))
            await asyncio.sleep(0.2)

        assert [event.id for event in await waiting] == ids
    assert len(asked) >= 2
    assert threading.main_thread() not in asked


async def test_a_wrong_request_is_refused(gateway, transport):
    names = [f"c{number}" for number in range(129)]
    async with subscribe(gateway.http, names, transport=transport) as events:
        with pytest.raises(Refused, match="129 channels: at most 128"):
            await anext(events)


# Proxies and overloads


@asynccontextmanager
async def listening(handle):
    """A server that replies with raw bytes; yields its address."""
    handlers = []

    async def serve(reader, writer):
        handlers.append(asyncio.current_task())
        await handle(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handlers)


async def test_sse_is_used_where_websockets_are_refused(gateway, publisher, channel):
    """A proxy that knows no upgrade, as it answers: 426, and everything else is carried."""

    async def handle(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        tried.append(head.split(b" ")[1].split(b"?")[0])
        if b"pgrade: websocket" in head:
            writer.write(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            there, back = await asyncio.open_connection("127.0.0.1", gateway.port)
            back.write(head)
            carrying = asyncio.ensure_future(carry(there, writer))
            with suppress(ConnectionError):  # the client or the gateway may be faster
                await reader.read()
            carrying.cancel()
            back.close()
            with suppress(ConnectionError):
                await back.wait_closed()

    async def carry(reader, writer):
        while data := await reader.read(65_536):
            writer.write(data)

    tried = []
    id = publisher.publish(channel, "completed", final=True)
    async with listening(handle) as url:
        events = subscribe(url, [channel], until_final=True)
        async with asyncio.timeout(30):
            assert [event.id async for event in events] == [id]

    assert tried == [b"/ws", b"/sse"]


async def test_an_overloaded_gateway_is_given_the_time_it_asks_for(gateway, publisher, channel):
    at = []
    loop = asyncio.get_running_loop()

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        at.append(loop.time())
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with listening(handle) as url, subscribe(url, [channel], transport="sse") as events:
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: len(at) == 3)
        waiting.cancel()

    assert all(later - earlier >= 1 for earlier, later in pairwise(at))


def test_an_overloaded_gateway_may_name_the_time_instead():
    now = datetime.now(UTC)

    assert 58 < retry_after(format_datetime(now + timedelta(seconds=60), usegmt=True)) <= 60
    assert retry_after(format_datetime(now - timedelta(seconds=60), usegmt=True)) == 0
    assert retry_after("soon") is None


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Retry-After: " + "9" * 400, ""),
        ("Retry-After: Mon, 99999999999999999999 Jan 1 1:1:1 GMT", ""),
        ("X: deep", "[" * 4_000),
    ],
    ids=["seconds without end", "no date of any calendar", "a body nested too deeply"],
)
async def test_an_answer_that_makes_no_sense_is_asked_for_again(headers, body, transport):
    attempts = []

    async def handle(reader, writer):
        attempts.append(await reader.read(65_536))
        writer.write(f"HTTP/1.1 500 Oops\r\n{headers}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())

    async with listening(handle) as url, subscribe(url, ["jobs:1"], transport=transport) as events:
        events._following._dice = lambda: 0.0
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: len(attempts) >= 2 or waiting.done())
        waiting.cancel()

    assert len(attempts) >= 2


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>"], ids=["none", "a page"]
)
async def test_a_server_that_does_not_answer_as_a_gateway_is_asked_again(answer, transport, monkeypatch):
    monkeypatch.setattr("notify_client.streams.OPEN_SECONDS", 0.2)
    attempts = []

    async def handle(reader, writer):
        attempts.append(await reader.read(65_536))
        writer.write(answer)
        with suppress(ConnectionError):
            await reader.read()

    async with listening(handle) as url, subscribe(url, ["jobs:1"], transport=transport) as events:
        events._following._dice = lambda: 0.0
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: len(attempts) >= 2 or waiting.done())
        waiting.cancel()

    assert len(attempts) >= 2


async def test_a_server_that_hangs_up_is_not_asked_again_at_once(transport):
    attempts = []

    async def handle(reader, writer):
        attempts.append(await reader.read(65_536))

    async with listening(handle) as url, subscribe(url, ["jobs:1"], transport=transport) as events:
        events._following._dice = lambda: 1.0
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: attempts)
        await asyncio.sleep(0.2)
        waiting.cancel()

    assert len(attempts) == 1


async def test_an_event_stream_is_utf_8_whatever_a_proxy_calls_it():
    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        event = '{"type":"progress","data":"é","channel":"jobs:1"}'
        kind = "text/event-stream; charset=iso-8859-1"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\ndata: {event}\n\n".encode())

    async with listening(handle) as url, subscribe(url, ["jobs:1"], transport="sse") as events:
        [event] = await take(events, 1)

    assert event.data == "é"


async def test_a_gateway_that_accepts_and_closes_at_once_causes_no_reconnect_storm(caplog):
    attempts = []

    async def handle(socket):
        attempts.append(asyncio.get_running_loop().time())
        await socket.close(1012)

    async with websockets.asyncio.server.serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with subscribe(f"http://127.0.0.1:{port}", ["jobs:1"], transport="ws") as events:
            events._following._dice = lambda: 0.2
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda: len(attempts) == 4)
            waiting.cancel()

    waits = [later - earlier for earlier, later in pairwise(attempts)]
    assert all(took >= wait for took, wait in zip(waits, (0.1, 0.2, 0.4), strict=True))
    assert caplog.text.count("no connection to the gateway") == 1
