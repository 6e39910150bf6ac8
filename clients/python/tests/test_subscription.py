"""Subscriptions against real gateways, over both transports, in tasks and in scripts: nothing is lost when they are cut."""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from notify_client import Refused, issue_token, subscribe, watch

from clients.python.tests.common import SECRET, take
from tests.faults.proxy import Proxy
from tests.support.figures import figures, figures_when
from tests.support.servers import running_gateway
from tests.support.waiting import until


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


async def test_a_final_event_ends_nothing_unless_that_is_asked_for(gateway, publisher, channel, transport):
    ids = [publisher.publish(channel, "completed", final=True)]
    async with subscribe(gateway.http, [channel], transport=transport) as events:
        seen = await take(events, 1)
        ids.append(publisher.publish(channel, "queued"))
        seen += await take(events, 1)

    assert [event.id for event in seen] == ids


async def test_the_final_event_of_a_job_that_is_over_comes_at_once(gateway, publisher, channel, transport):
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

        async with asyncio.timeout(30):
            assert [event.id async for event in events] == ledger


async def test_when_a_gateway_shuts_down_another_is_used(gateway, redis_url, publisher, channel, transport):
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


async def test_a_silent_connection_is_given_up(gateway, publisher, channel, transport, caplog):
    caplog.set_level(logging.DEBUG, "notify_client")
    async with Proxy(gateway.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with subscribe(url, [channel], since="0", transport=transport, silence=1) as events:
            first = publisher.publish(channel, "progress", 1)
            assert [event.id for event in await take(events, 1)] == [first]
            proxy.mode = "swallow"
            waiting = asyncio.ensure_future(take(events, 1))
            second = publisher.publish(channel, "progress", 2)
            await until(lambda: "no connection" in caplog.text)
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


async def test_a_cancelled_wait_that_is_not_repeated_keeps_no_connection(gateway, publisher, channel, transport, monkeypatch):
    monkeypatch.setattr("notify_client.subscription.PATIENCE", 0.1)
    publisher.publish(channel, "progress")
    events = subscribe(gateway.http, [channel], transport=transport)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            async for _ in events:
                pass
    found = await figures_when(gateway.http, lambda figures: not figures["gateway_connections"])
    id = publisher.publish(channel, "progress")

    assert found["gateway_connections"] == 0
    assert [event.id for event in await take(events, 1)] == [id]
    await events.aclose()


async def test_a_cancelled_wait_that_is_repeated_keeps_the_connection(gateway, publisher, channel, transport, monkeypatch):
    monkeypatch.setattr("notify_client.subscription.PATIENCE", 0.1)
    publisher.publish(channel, "progress")
    async with subscribe(gateway.http, [channel], transport=transport) as events:
        await take(events, 1)
        stream = events._stream
        for seconds in (0.01, 0.3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), seconds)

        assert events._stream is stream


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


async def test_a_gap_whose_callback_is_cancelled_is_told_again(gateway, publisher, channel):
    told, first = [], asyncio.Event()

    async def on_gap(name):
        told.append(name)
        if not first.is_set():
            first.set()
            await asyncio.Event().wait()

    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    last = publisher.publish(channel, "progress", 2, keep=1)
    async with asyncio.timeout(30), subscribe(gateway.http, {channel: old}, transport="sse", on_gap=on_gap) as events:
        waiting = asyncio.ensure_future(anext(events))
        await first.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await events.follow(f"{channel}.b")  # which takes another connection
        event = await anext(events)

    assert (told, event.id) == ([channel, channel], last)


async def test_the_iteration_can_end_while_a_gap_callback_runs(gateway, publisher, channel, transport):
    telling = asyncio.Event()

    async def on_gap(_name):
        telling.set()
        await asyncio.Event().wait()

    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    publisher.publish(channel, "progress", 2, keep=1)
    async with asyncio.timeout(30):
        events = subscribe(gateway.http, {channel: old}, transport=transport, on_gap=on_gap)
        waiting = asyncio.ensure_future(anext(events))
        await telling.wait()
        await events.aclose()

        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_gap_callback_may_follow_another_channel(gateway, publisher, channel, transport):
    async def on_gap(_name):
        await events.follow(f"{channel}.b")

    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    ids = {publisher.publish(name, "progress", 2, keep=1) for name in (channel, f"{channel}.b")}
    async with subscribe(gateway.http, {channel: old}, transport=transport, on_gap=on_gap) as events:
        seen = {event.id for event in await take(events, 2)}

    assert seen == ids


async def test_a_gap_that_nobody_asked_for_is_logged(gateway, publisher, channel, caplog):
    old = publisher.publish(channel, "progress", 0)
    publisher.publish(channel, "progress", 1, keep=1)
    publisher.publish(channel, "progress", 2, keep=1)
    with caplog.at_level(logging.WARNING, "notify_client"):
        async with subscribe(gateway.http, {channel: old}) as events:
            await anext(events)

    assert f"events of channel {channel} are missing" in caplog.text


async def test_a_token_that_is_cancelled_is_not_taken_for_the_end_of_the_channels(gateway, publisher, channel, transport):
    fetched = asyncio.get_running_loop().create_future()  # as of a fetch that others wait for too

    async def token():
        return await asyncio.shield(fetched)

    async with subscribe(gateway.http, [channel], token=token, transport=transport) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        fetched.cancel()
        await asyncio.wait([waiting])
        fetched = asyncio.get_running_loop().create_future()
        fetched.set_result("token")
        publisher.publish(channel, "queued")

        assert waiting.cancelled()
        assert [event.type for event in await take(events, 1)] == ["queued"]


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
    opened = (await figures(gateway.http))["gateway_handshake_seconds_count"]
    async with subscribe(gateway.http, [f"{channel}.a"], transport=transport) as events:
        assert [event.id for event in await take(events, 1)] == [ids["a"]]
        await events.follow(f"{channel}.b")
        assert [event.id for event in await take(events, 1)] == [ids["b"]]
        await events.unfollow(f"{channel}.a")
        publisher.publish(f"{channel}.a", "progress", "not for us")
        more = publisher.publish(f"{channel}.b", "progress", 2)

        assert [event.id for event in await take(events, 1)] == [more]
        assert events.cursors == {f"{channel}.b": more}

        connections, followed = (1, 1) if transport == "ws" else (2, 2)  # the channels of an event stream are in its address
        shown = await figures_when(gateway.http, lambda now: now["gateway_subscriptions"] == followed)
        assert shown["gateway_subscriptions"] == followed
        assert shown["gateway_handshake_seconds_count"] == opened + connections


async def test_a_channel_that_is_followed_again_begins_where_the_call_says(gateway, publisher, channel, transport):
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


async def test_a_channel_that_is_followed_while_it_connects_is_followed(gateway, publisher, channel, transport):
    ids = {publisher.publish(name, "progress") for name in (channel, f"{channel}.b")}
    async with Proxy(gateway.port) as proxy:
        proxy.latency = 0.2
        async with subscribe(f"http://127.0.0.1:{proxy.port}", [channel], transport=transport) as events:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(events)
            await events.follow(f"{channel}.b")

            assert {event.id for event in await take(events, 2)} == ids


async def test_to_follow_a_channel_again_changes_nothing(gateway, publisher, channel, transport):
    first = publisher.publish(channel, "progress", 1)
    async with Proxy(gateway.port) as proxy, subscribe(f"http://127.0.0.1:{proxy.port}", [channel], transport=transport) as events:
        assert [event.id for event in await take(events, 1)] == [first]
        proxy.mode = "refuse"  # a new connection would fail
        await events.follow(channel, "0")
        second = publisher.publish(channel, "progress", 2)

        assert [event.id for event in await take(events, 1)] == [second]


async def test_another_task_may_follow_while_one_iterates(gateway, publisher, channel, transport):
    publisher.publish(channel, "progress")
    id = publisher.publish(f"{channel}.b", "progress")
    async with subscribe(gateway.http, [channel], transport=transport) as events:
        await take(events, 1)
        waiting = asyncio.ensure_future(take(events, 1))
        await asyncio.sleep(0.05)
        await events.follow(f"{channel}.b")

        assert [event.id for event in await waiting] == [id]


async def test_a_follow_that_is_cancelled_can_be_repeated(gateway, publisher, channel, transport):
    publisher.publish(channel, "progress")
    id = publisher.publish(f"{channel}.b", "progress")
    for steps in range(5):
        async with subscribe(gateway.http, [channel], transport=transport) as events:
            await take(events, 1)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(events)
            following = asyncio.ensure_future(events.follow(f"{channel}.b"))
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled = following.cancel()
            await asyncio.wait([following])
            await events.follow(f"{channel}.b")

            assert following.cancelled() == cancelled
            assert [event.id for event in await take(events, 1)] == [id]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_subscription_that_is_left_without_being_closed_keeps_no_connection(gateway, publisher, channel, transport):
    publisher.publish(channel, "progress")
    async for _ in subscribe(gateway.http, [channel], transport=transport):
        break
    gc.collect()

    found = await figures_when(gateway.http, lambda figures: not figures["gateway_connections"])
    assert found["gateway_connections"] == 0


async def test_a_close_that_is_cancelled_keeps_no_connection(gateway, publisher, channel, transport):
    publisher.publish(channel, "progress")
    for steps in range(6):
        events = subscribe(gateway.http, [channel], transport=transport)
        await take(events, 1)
        closing = asyncio.ensure_future(events.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await events.aclose()

    found = await figures_when(gateway.http, lambda figures: not figures["gateway_connections"])
    assert found["gateway_connections"] == 0


async def test_nothing_is_followed_at_first(gateway, publisher, channel, transport):
    id = publisher.publish(channel, "progress")
    async with subscribe(gateway.http, [], transport=transport) as events:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(events)
        await events.follow(channel)

        assert [event.id for event in await take(events, 1)] == [id]


async def test_a_channel_may_be_left_before_the_first_connection(gateway, publisher, channel):
    id = publisher.publish(channel, "progress")
    async with subscribe(gateway.http, [channel, "jobs:left"]) as events:
        await events.unfollow("jobs:left")

        assert [event.id for event in await take(events, 1)] == [id]
        assert list(events.cursors) == [channel]


async def test_when_nothing_is_followed_any_more_it_waits(gateway, publisher, channel, transport):
    publisher.publish(channel, "progress")
    async with Proxy(gateway.port) as proxy, subscribe(f"http://127.0.0.1:{proxy.port}", [channel], transport=transport) as events:
        await take(events, 1)
        await events.unfollow(channel)
        proxy.reset()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):  # long enough to connect again
                await anext(events)
        await events.follow(f"{channel}.b")
        id = publisher.publish(f"{channel}.b", "progress")

        assert [event.id for event in await take(events, 1)] == [id]


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


def test_a_script_that_ends_while_it_watches_ends(gateway, publisher, channel):
    publisher.publish(channel, "progress")
    script = f"from notify_client import watch; events = watch({gateway.http!r}, [{channel!r}]); print(next(events).type)"
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "progress\n", "")


def test_a_script_is_told_of_a_refusal(guarded):
    with pytest.raises(Refused):
        next(iter(watch(guarded.http, ["jobs:7"], token=issue_token(SECRET, "ann"))))


def test_a_script_is_told_if_no_event_loop_can_be_made(monkeypatch):
    def refuse():
        raise OSError("Too many open files")

    monkeypatch.setattr(asyncio.events, "new_event_loop", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        next(iter(watch("http://localhost", ["jobs:7"])))


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

    assert "pip install 'notify-gateway-client[subscribe]'" in done.stdout
