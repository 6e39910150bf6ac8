"""Subscriptions against real gateways: over both transports, cut, refused, expired, and nothing lost."""

import asyncio
import contextlib
import logging
import ssl
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
import websockets.asyncio.server
from notify_client import Publisher, Refused, issue_token, subscribe, watch

from gateway.embedded import embedded_server
from tests.faults.proxy import Proxy
from tests.support.servers import running_gateway
from tests.support.tls import tls_before

SECRET = "a secret of at least thirty-two bytes"

TRANSPORTS = ("ws", "sse")


@pytest.fixture(scope="module")
def redis_url():
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module")
def gateway(redis_url):
    with running_gateway(redis_url) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(redis_url):
    with running_gateway(redis_url, auth="jwt", jwt_secret=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def publisher(redis_url):
    with Publisher(redis_url, timeout=5) as publisher:
        yield publisher


@pytest.fixture
def channel(request):
    return f"t:{abs(hash(request.node.name))}"


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


async def take(events, count):
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


async def test_a_token_goes_to_no_other_address(channel, transport, caplog):
    asked = []

    def redirect(connection, request):
        asked.append(request.headers["Authorization"])
        answer = connection.respond(302, "")
        answer.headers["Location"] = f"{'ws' if transport == 'ws' else 'http'}://127.0.0.1:{port(elsewhere)}/"
        return answer

    def port(server):
        return server.sockets[0].getsockname()[1]

    async with (
        websockets.asyncio.server.serve(None, "127.0.0.1", 0, process_request=lambda _, request: asked.append(request.path)) as elsewhere,
        websockets.asyncio.server.serve(None, "127.0.0.1", 0, process_request=redirect) as gateway,
        subscribe(f"http://127.0.0.1:{port(gateway)}", [channel], transport=transport, token="secret") as events,
    ):
        following = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(10):
            while "no connection to the gateway" not in caplog.text:
                await asyncio.sleep(0.01)
        following.cancel()

    assert set(asked) == {"Bearer secret"}


async def test_over_tls_a_gateway_is_followed_whose_certificate_is_good_and_no_other(
    gateway, publisher, channel, transport, tmp_path, caplog
):
    id = publisher.publish(channel, "progress")
    async with asyncio.timeout(10), tls_before(gateway.port, tmp_path) as port:
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


async def test_a_job_is_followed_to_its_end(gateway, publisher, channel, transport):
    first = publisher.publish(channel, "progress", {"percent": 40})
    seen = []
    async with subscribe(gateway.http, [channel], transport=transport, until_final=True) as events:
        async for event in events:
            seen.append(event)
            if event.type == "progress":
                last = publisher.publish(channel, "completed", {"url": "/files/42"}, final=True)

    assert [(event.id, event.data, event.final) for event in seen] == [(first, {"percent": 40}, False), (last, {"url": "/files/42"}, True)]
    assert seen[0].channel == channel


async def test_a_job_that_is_over_says_so_at_once(gateway, publisher, channel, transport):
    publisher.publish(channel, "progress")
    last = publisher.publish(channel, "completed", final=True)

    events = subscribe(gateway.http, {channel: None}, transport=transport, until_final=True)
    assert [event.id async for event in events] == [last]
    again = subscribe(gateway.http, {channel: last}, transport=transport, until_final=True)
    assert [event.id async for event in again] == []


async def test_since_says_where_to_begin(gateway, publisher, channel, transport):
    ids = [publisher.publish(channel, "progress", n) for n in range(3)]
    for since, expected in (("0", ids), (ids[0], ids[1:]), ("last", ids[2:]), (None, ids[2:])):
        async with subscribe(gateway.http, [channel], since=since, transport=transport) as events:
            assert [event.id for event in await take(events, len(expected))] == expected
    async with subscribe(gateway.http, {channel: ids[1]}, transport=transport) as events:
        assert [event.id for event in await take(events, 1)] == ids[2:]
        assert events.cursors == {channel: ids[2]}


async def test_a_connection_that_is_cut_again_and_again_loses_nothing(gateway, publisher, channel, transport):
    async with Proxy(gateway.port) as proxy:
        proxy.cut_after = 1_500
        ledger = [publisher.publish(channel, "progress", n) for n in range(50)]
        events = subscribe(f"http://127.0.0.1:{proxy.port}", [channel], since="0", transport=transport, until_final=True)
        events._following._dice = lambda: 0.0
        ledger += [publisher.publish(channel, "completed", final=True)]

        async with asyncio.timeout(20):
            assert [event.id async for event in events] == ledger


async def test_a_gateway_that_goes_is_left_for_another(gateway, redis_url, publisher, channel, transport):
    async with Proxy(0) as proxy, subscribe(f"http://127.0.0.1:{proxy.port}", [channel], transport=transport) as events:
        events._following._dice = lambda: 0.2
        with running_gateway(redis_url) as server:
            proxy.target = server.port
            first = publisher.publish(channel, "progress", 1)
            assert [event.id for event in await take(events, 1)] == [first]
        waiting = asyncio.ensure_future(take(events, 2))
        ids = [publisher.publish(channel, "progress", "while there was none")]
        await asyncio.sleep(0.3)
        proxy.target = gateway.port
        ids.append(publisher.publish(channel, "progress", "again"))
        assert [event.id for event in await waiting] == ids


async def test_a_connection_gone_silent_is_given_up(gateway, publisher, channel, transport):
    async with Proxy(gateway.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with subscribe(url, [channel], since="0", transport=transport, silence=1) as events:
            first = publisher.publish(channel, "progress", 1)
            assert [event.id for event in await take(events, 1)] == [first]
            proxy.mode = "swallow"
            waiting = asyncio.ensure_future(take(events, 1))
            second = publisher.publish(channel, "progress", 2)
            await asyncio.sleep(1.5)
            proxy.mode = "pass"

            assert [event.id for event in await waiting] == [second]


async def test_a_cancelled_wait_loses_nothing(gateway, publisher, channel, transport):
    async with subscribe(gateway.http, [channel], since="0", transport=transport) as events:
        for _ in range(20):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(events)
        ids = [publisher.publish(channel, "progress", n) for n in range(20)]
        seen = []
        while len(seen) < 20:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    seen.append((await anext(events)).id)

    assert seen == ids


async def test_a_gap_is_told_before_the_next_event(gateway, publisher, channel, transport):
    told = []

    async def on_gap(name):
        await asyncio.sleep(0)
        told.append(name)

    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    last = publisher.publish(channel, "progress", 2, keep=1)
    async with subscribe(gateway.http, {channel: old}, transport=transport, on_gap=on_gap) as events:
        event = await anext(events)

    assert (told, event.id) == ([channel], last)


async def test_a_gap_whose_telling_is_broken_off_is_told_again(gateway, publisher, channel):
    told, first = [], asyncio.Event()

    async def on_gap(name):
        told.append(name)
        if not first.is_set():
            first.set()
            await asyncio.Event().wait()

    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    last = publisher.publish(channel, "progress", 2, keep=1)
    async with asyncio.timeout(10), subscribe(gateway.http, {channel: old}, transport="sse", on_gap=on_gap) as events:
        waiting = asyncio.ensure_future(anext(events))
        await first.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await events.follow(f"{channel}.b")  # which takes another connection
        event = await anext(events)

    assert (told, event.id) == ([channel, channel], last)


async def test_whoever_is_being_told_of_a_gap_can_leave(gateway, publisher, channel, transport):
    telling = asyncio.Event()

    async def on_gap(_name):
        telling.set()
        await asyncio.Event().wait()

    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    publisher.publish(channel, "progress", 2, keep=1)
    async with asyncio.timeout(10):
        events = subscribe(gateway.http, {channel: old}, transport=transport, on_gap=on_gap)
        waiting = asyncio.ensure_future(anext(events))
        await telling.wait()
        await events.aclose()

        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_gap_that_nobody_asked_for_is_logged(gateway, publisher, channel, caplog):
    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    publisher.publish(channel, "progress", 2, keep=1)
    with caplog.at_level(logging.WARNING, "notify_client"):
        async with subscribe(gateway.http, {channel: old}) as events:
            await anext(events)

    assert f"events of channel {channel} are missing" in caplog.text


async def test_live_only_events_arrive(gateway, publisher, channel, transport):
    publisher.publish(channel, "queued")
    async with subscribe(gateway.http, [channel], transport=transport) as events:
        await anext(events)
        waiting = asyncio.ensure_future(take(events, 1))
        while publisher.live(channel, "typing", {"by": "ann"}) == 0 or not waiting.done():
            await asyncio.sleep(0.01)

        [event] = await waiting
        assert (event.type, event.data, event.id) == ("typing", {"by": "ann"}, None)


async def test_channels_come_and_go_while_iterating(gateway, publisher, channel, transport):
    ids = {name: publisher.publish(f"{channel}.{name}", "progress") for name in "ab"}
    async with subscribe(gateway.http, [f"{channel}.a"], transport=transport) as events:
        assert [event.id for event in await take(events, 1)] == [ids["a"]]
        await events.follow(f"{channel}.b")
        assert [event.id for event in await take(events, 1)] == [ids["b"]]
        await events.unfollow(f"{channel}.a")
        publisher.publish(f"{channel}.a", "progress", "not for us")
        more = publisher.publish(f"{channel}.b", "progress", 2)

        assert [event.id for event in await take(events, 1)] == [more]
        assert events.cursors == {f"{channel}.b": more}


async def test_what_was_unfollowed_and_is_followed_again_begins_where_it_is_told_to(gateway, publisher, channel, transport):
    ids = [publisher.publish(channel, "progress", n) for n in range(3)]
    async with subscribe(gateway.http, [channel, f"{channel}.other"], since="now", transport=transport) as events:
        first = asyncio.ensure_future(take(events, 1))
        while not first.done():
            publisher.publish(f"{channel}.other", "progress")
            await asyncio.sleep(0.05)
        await events.unfollow(f"{channel}.other")
        ids += [publisher.publish(channel, "progress", n) for n in range(3)]
        await asyncio.sleep(0.1)  # they are here, and nobody has taken them
        await events.unfollow(channel)
        await events.follow(channel, "0")

        assert [event.id for event in await take(events, 6)] == ids


async def test_nothing_is_followed_at_first(gateway, publisher, channel):
    async with subscribe(gateway.http, [], transport="ws") as events:
        await events.follow(channel)
        id = publisher.publish(channel, "progress")

        assert [event.id for event in await take(events, 1)] == [id]


# Who may come in


async def test_a_channel_that_is_not_allowed_is_refused_with_the_gateways_reason(guarded, transport):
    token = issue_token(SECRET, "ann")
    async with subscribe(guarded.http, ["jobs:7"], token=token, transport=transport) as events:
        with pytest.raises(Refused, match="channel 'jobs:7': the token does not allow it") as refused:
            await anext(events)

    assert refused.value.code in (403, 4403)


async def test_a_token_that_is_no_good_is_refused(guarded, transport):
    async with subscribe(guarded.http, ["user:ann"], token="garbage", transport=transport) as events:
        with pytest.raises(Refused) as refused:
            await anext(events)

    assert refused.value.code in (401, 4401)
    assert "garbage" not in str(refused.value)


async def test_the_token_function_is_asked_once_more_and_then_it_is_enough(guarded, transport):
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


# What stands in the way


@asynccontextmanager
async def listening(handle):
    """A server of raw bytes; gives its address."""
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


async def test_where_websockets_are_refused_sse_gets_through(gateway, publisher, channel):
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
            with contextlib.suppress(ConnectionError):  # the client or the gateway may be faster
                await reader.read()
            carrying.cancel()
            back.close()
            with contextlib.suppress(ConnectionError):
                await back.wait_closed()

    async def carry(reader, writer):
        while data := await reader.read(65_536):
            writer.write(data)

    tried = []
    id = publisher.publish(channel, "completed", final=True)
    async with listening(handle) as url:
        events = subscribe(url, [channel], until_final=True)
        async with asyncio.timeout(5):
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
        with suppress(TimeoutError):
            async with asyncio.timeout(2.9):
                await anext(events)

    assert 2 <= len(at) <= 3
    assert all(1 <= later - earlier < 2 for earlier, later in pairwise(at))


async def test_accepting_and_closing_at_once_makes_no_storm(caplog):
    attempts = []

    async def handle(socket):
        attempts.append(socket)
        await socket.close(1012)

    async with websockets.asyncio.server.serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with subscribe(f"http://127.0.0.1:{port}", ["jobs:1"], transport="ws") as events:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.5):
                    await anext(events)

    assert 2 <= len(attempts) < 20
    assert caplog.text.count("no connection to the gateway") == 1


# Without asyncio


def test_a_script_watches_without_asyncio(gateway, publisher, channel, transport):
    seen = []
    publisher.publish(channel, "progress")
    for event in watch(gateway.http, [channel], transport=transport, until_final=True):
        seen.append(event.type)
        if event.type == "progress":
            publisher.publish(channel, "completed", final=True)

    assert seen == ["progress", "completed"]
    assert not any(thread.name == "notify-watch" for thread in threading.enumerate())


def test_a_script_may_stop_watching(gateway, publisher, channel):
    publisher.publish(channel, "progress")
    for _ in watch(gateway.http, [channel]):
        break

    assert not any(thread.name == "notify-watch" for thread in threading.enumerate())


def test_a_script_is_told_of_a_refusal(guarded):
    with pytest.raises(Refused):
        next(iter(watch(guarded.http, ["jobs:7"], token=issue_token(SECRET, "ann"))))


def test_wrong_arguments_are_found_before_anything_is_sent():
    for call in (subscribe, watch):
        with pytest.raises(ValueError, match="channel 'a b'"):
            call("http://localhost", ["a b"])
        with pytest.raises(ValueError, match="the gateway's address"):
            call("localhost", ["a"])
        with pytest.raises(ValueError, match="silence 0"):
            call("http://localhost", ["a"], silence=0)
        with pytest.raises(TypeError, match="untilfinal: unknown"):
            call("http://localhost", ["a"], untilfinal=True)


def test_publishing_needs_no_http_library():
    script = (
        "import sys; import notify_client; assert not {'httpx', 'websockets'} & sys.modules.keys()\n"
        "sys.modules['websockets'] = None\n"
        "try: notify_client.subscribe('http://h', ['a'])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "pip install 'notify-client[subscribe]'" in done.stdout
