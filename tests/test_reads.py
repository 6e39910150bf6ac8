"""Reads of logs, which clients at the same cursor share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import feed as feed_module
from gateway import metrics
from gateway import reads as reads_module
from gateway.core.cursor import Cursor
from gateway.core.hub import Channel, Hub
from gateway.core.page import Page, Since
from gateway.core.subscription import NEWEST, Subscription
from gateway.core.wire import TEXT
from gateway.embedded import free_port
from gateway.feed import Feed
from gateway.reads import KEPT_BYTES, PAGE_BYTES, READ_BYTES, READS_IN_PIPELINE, Read, Reads, _budget_for, pages_of
from gateway.store.client import redis_client
from gateway.store.log import Log
from tests.conftest import publisher
from tests.support.feeds import Client, reads, running
from tests.support.waiting import until


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 100, 128, 10_000])
def test_the_reads_of_a_client_together_bring_what_one_may_bring_or_up_to_half_less(count: int) -> None:
    budget = _budget_for(count)

    assert budget.bit_count() == 1  # so that clients with other numbers of channels ask for the same
    assert budget * max(1, count) <= READ_BYTES
    assert budget == PAGE_BYTES or 2 * budget * count > READ_BYTES


@contextlib.asynccontextmanager
async def asking(redis_url: str) -> AsyncIterator[tuple[Reads, Callable[..., Read]]]:
    """Reads, and a function that asks for one; left once all are answered."""
    async with running(redis_url) as feed:
        reads, asked = Reads(feed.log, feed.hub), []

        def ask(channel: Channel, since: Since, must_reach: int = 0) -> Read:
            [read] = reads.ask([cursor_of(channel, since)], must_reach).values()
            asked.append(read)
            return read

        yield reads, ask
        for read in asked:
            await read.answered.wait()


def cursor_of(channel: Channel, since: Since = 0) -> Cursor:
    return Cursor(Subscription(wire=TEXT, write=print, on_behind=print, on_done=print, on_failed=print), channel, since)


async def test_a_read_on_its_way_is_shared_also_after_one_from_elsewhere(redis_url: str) -> None:
    channel = Channel("jobs:1")
    async with asking(redis_url) as (_, ask):
        first, elsewhere, second = ask(channel, 1), ask(channel, 2), ask(channel, 1)

    assert first is second is not elsewhere


async def test_few_reads_of_one_channel_are_kept_while_they_are_on_their_way_and_few_are_answered_together(redis_url: str) -> None:
    channel, kept, together = Channel("jobs:1"), [], Counter[asyncio.Event]()
    async with asking(redis_url) as (reads, ask):
        for since in range(1, 3 * READS_IN_PIPELINE):
            together[ask(channel, since).answered] += 1
            kept.append(len(reads._reads[channel]))

    assert max(kept) == max(together.values()) == READS_IN_PIPELINE


async def test_a_page_is_shared_until_something_is_announced(redis_url: str) -> None:
    channel = Channel("jobs:1")
    async with asking(redis_url) as (_, ask):
        made, shared = metrics.READS.value, metrics.SHARED_READS.value
        first = ask(channel, 1)
        await first.answered.wait()
        second, third = ask(channel, 1), ask(channel, 1)
        channel.heard = 10**18
        fourth = ask(channel, 1)

    assert first is second is third is not fourth
    assert (metrics.READS.value - made, metrics.SHARED_READS.value - shared) == (2, 2)


async def test_a_page_is_not_shared_where_it_has_to_reach_further_until_what_was_heard_shows_that_it_does(redis_url: str) -> None:
    channel = Channel("jobs:1")
    async with asking(redis_url) as (reads, ask):
        first = ask(channel, 1)
        await first.answered.wait()
        assert isinstance(first.page, Page)
        far = first.page.horizon + 1
        as_far = ask(channel, 1, first.page.horizon)
        reads._hub.heard = far
        heard = ask(channel, 1, far)
        further = ask(channel, 1, far + 1)

    assert first is as_far is heard is not further


async def test_a_client_that_does_not_wait_for_announcements_shares_only_reads_that_are_not_sent_yet(redis_url: str) -> None:
    channel = Channel("jobs:1")
    async with asking(redis_url) as (_, ask):
        first, second = ask(channel, 1), ask(channel, 1, NEWEST)
        while not first.sent:
            await asyncio.sleep(0)
        on_its_way = ask(channel, 1, NEWEST)
        await on_its_way.answered.wait()
        afterwards, waiting = ask(channel, 1, NEWEST), ask(channel, 1)

    assert first is second is not on_its_way is not afterwards
    assert waiting is afterwards


async def test_a_read_that_fails_is_answered_with_the_error() -> None:
    async with redis_client(f"redis://127.0.0.1:{free_port()}") as client:
        cursor = cursor_of(Channel("jobs:1"))
        reads = Reads(Log(client), Hub())
        asked = reads.ask([cursor], 0)
        await asked[cursor].answered.wait()

        await asyncio.sleep(0)

    with pytest.raises((RedisError, OSError)):
        pages_of(asked)
    assert not reads._tasks


async def test_clients_whose_read_was_cancelled_are_read_for_again(redis_url: str) -> None:
    async with running(redis_url) as feed, asyncio.timeout(30):
        clients = [Client(feed, name, 0) for name in ("jobs:1", "jobs:2")]
        while not feed.reads._tasks:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # until it has begun
        for task in feed.reads._tasks:
            task.cancel()
        for client in clients:
            await client.until_ready()


async def test_a_channel_with_a_long_log_may_bring_more_unless_others_bring_much_already(redis_url: str) -> None:
    cursors = [cursor_of(Channel(f"jobs:{number}")) for number in range(32)]
    cursors[0].more = True
    async with running(redis_url) as feed:
        reads = Reads(feed.log, feed.hub)
        answered = next(iter(reads.ask(cursors, 0).values())).answered
        alone = [cursor.read_budget for cursor in cursors]
        for cursor in cursors:
            cursor.read_budget = 0 if cursor is cursors[0] else READ_BYTES // 16
        reads.ask(cursors, 0)
        await answered.wait()

    assert alone == [PAGE_BYTES] + [READ_BYTES // 32] * 31
    assert cursors[0].read_budget == READ_BYTES // 32


async def test_a_thousand_clients_that_resume_at_one_cursor_share_one_read(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LINGER_SECONDS", 1_000)  # a busy machine may take longer than a page is kept
    async with running(redis_url) as feed:
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(5)]
        before = await reads(redis)
        clients = [Client(feed, "jobs:1", int(published[1])) for _ in range(1_000)]
        await asyncio.gather(*(client.until_ready() for client in clients))
        shared = await reads(redis) - before

        assert shared == 1
        assert all(client.ids == published[2:] for client in clients)


async def test_a_channel_that_redis_has_forgotten_since_it_was_heard_of_is_read_once(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        early = Client(feed, "jobs:1", 0)
        await early.until_ready()
        await publisher(redis)("jobs:1", "progress")
        await until(lambda: early.ids)
        await redis.unlink(*await redis.keys("*{jobs:1}*"))  # as days after its last event
        before = await reads(redis)
        late = Client(feed, "jobs:1", 0)
        await until(lambda: late.subscription.live)

        assert await reads(redis) - before == 1


async def test_few_pages_of_a_long_log_are_kept(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        for i in range(80):
            await publisher(redis)("jobs:1", "progress", f"{i}" + "x" * 8_000)
        client = Client(feed, "jobs:1", 0)
        await until(lambda: len(client.ids) >= 80)
        kept = sum(read.page.size for reads in feed.reads._reads.values() for read in reads.values() if isinstance(read.page, Page))

        assert PAGE_BYTES < kept <= KEPT_BYTES + PAGE_BYTES


@pytest.mark.parametrize("by_channel", [False, True], ids=["all at once", "one after the other"])
async def test_large_events_of_many_channels_take_few_reads(redis_url: str, redis: Redis, by_channel: bool) -> None:
    channels, times = [f"jobs:{i}" for i in range(32)], range(10)
    order = [name for name in channels for _ in times] if by_channel else [name for _ in times for name in channels]
    async with running(redis_url) as feed:
        published = [await publisher(redis)(name, "progress", "x" * 9_000) for name in order]
        before = await reads(redis)
        client = Client(feed, dict.fromkeys(channels, 0))
        await client.until_ready()

        assert client.ids == published
        assert await reads(redis) - before <= 3 * len(channels)  # of 320 events


async def test_a_page_is_kept_while_it_is_asked_for_and_dropped_after(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LINGER_SECONDS", 1_000)  # no other sweeps than those of this test
    async with running(redis_url) as feed:
        id = await publisher(redis)("jobs:1", "progress")
        before = await reads(redis)
        for _ in range(3):
            await Client(feed, "jobs:1", int(id)).until_ready()
            feed.reads.sweep()
        shared = await reads(redis) - before
        feed.reads.sweep()
        await Client(feed, "jobs:1", int(id)).until_ready()

        assert shared == 1
        assert await reads(redis) - before == 2


async def test_clients_that_resume_one_after_the_other_share_it_too(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LINGER_SECONDS", 1_000)
    async with running(redis_url) as feed:
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(5)]
        before = await reads(redis)
        for _ in range(100):
            client = Client(feed, "jobs:1", int(published[1]))
            await client.until_ready()

            assert client.ids == published[2:]
        assert await reads(redis) - before == 1


async def test_hundreds_on_two_busy_channels_share_their_reads_and_see_one_order(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        publish = publisher(redis)
        published = [await publish(f"jobs:{i % 2}", "progress", i) for i in range(20)]
        before = await reads(redis)
        wanted: dict[str, Since] = {"jobs:0": int(published[4]), "jobs:1": int(published[4])}
        clients = [Client(feed, wanted) for _ in range(500)]
        published += [await publish(f"jobs:{i % 2}", "progress", i) for i in range(50)]
        await until(lambda: all(len(client.ids) == 65 for client in clients))

        assert all(client.ids == published[5:] for client in clients)
        assert await reads(redis) - before <= 2 + 2 * 50


async def test_since_last_gets_the_newest_event_even_before_its_announcement(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        await publisher(redis)("jobs:1", "started")
        first = Client(feed, "jobs:1", "last")
        await first.until_ready()
        with SyncRedis.from_url(redis_url) as blocking:  # blocks the event loop, so that the announcement is not received yet
            blocking.execute_command("FCALL", "notify_publish", 1, "jobs:1", '{"type":"completed","final":true}')
        second = Client(feed, "jobs:1", "last")
        await second.until_ready()

        assert [message.get("type", message.get("op")) for message in second.got[:2]] == ["completed", "ready"]


async def test_a_redis_that_knows_what_was_heard_is_asked_once(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        follower = Client(feed, "jobs:1")
        await follower.until_ready()
        published = await publisher(redis)("jobs:1")
        await until(lambda: published in follower.ids)
        before = await reads(redis)
        await Client(feed, "jobs:1").until_ready()

        assert await reads(redis) - before == 1


async def two_received(feed: Feed, redis: Redis) -> list[str]:
    """The ids of two events on jobs:1 that the feed has heard of."""
    follower = Client(feed, "jobs:1", 0)
    await follower.until_ready()
    ids = [await publisher(redis)("jobs:1") for _ in range(2)]
    await until(lambda: ids[-1] in follower.ids)
    return ids


async def test_a_redis_that_lags_behind_what_was_received_is_corrected_before_it_is_trusted(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        first, _ = await two_received(feed, redis)
        # As if commands went to another master that lags behind, while the pub/sub connection has noticed nothing.
        await redis.mset({"notify:clock": first, "notify:last:{jobs:1}": f"{first}0"})
        await redis.rpop("notify:log:{jobs:1}")
        client = Client(feed, "jobs:1", int(first))
        await client.until_ready()

        assert [message["op"] for message in client.got] == ["gap", "ready"]


async def test_a_redis_that_stays_behind_is_believed_in_the_end(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_without_effect(*_: object) -> bytes:
        return b""

    async with running(redis_url) as feed:
        first, _ = await two_received(feed, redis)
        await redis.set("notify:clock", first)
        monkeypatch.setattr(feed.log, "open", open_without_effect)
        client = Client(feed, "jobs:1", int(first))
        await client.until_ready()

        assert [message["op"] for message in client.got] == ["gap", "ready"]


async def test_an_id_days_ahead_of_redis_is_forgotten_and_hides_no_event_from_those_who_share_reads(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        watcher = Client(feed, "jobs:1", 0)
        await watcher.until_ready()
        published = [await publisher(redis)("jobs:1")]
        ahead = int(published[0]) + 10 * reads_module.AHEAD
        await redis.publish("notify:jobs:1", f"{ahead} {ahead - 1}\n1")
        for _ in range(3):
            resumed = [Client(feed, "jobs:1", int(published[-1]))]
            await resumed[0].until_ready()
            published.append(await publisher(redis)("jobs:1"))
            await until(lambda resumed=resumed: resumed[0].ids == [published[-1]])
            resumed.append(Client(feed, "jobs:1", int(published[-2])))
            await resumed[1].until_ready()

            assert [client.ids for client in resumed] == [[published[-1]]] * 2
            assert not [message for client in resumed for message in client.got if message.get("op") == "gap"]

        assert watcher.ids == published


async def test_after_a_redis_whose_clock_was_days_ahead_lost_its_data_everybody_gets_one_gap_and_then_every_event(
    redis_url: str, redis: Redis
) -> None:
    async with running(redis_url) as feed:
        await redis.set("notify:clock", time.time_ns() // 1000 + 10 * reads_module.AHEAD)
        ahead = await two_received(feed, redis)
        watcher = Client(feed, "jobs:1", int(ahead[0]))
        await watcher.until_ready()
        await redis.flushall()
        await Client(feed, "jobs:1", int(ahead[0]) - 1).until_ready()
        await until(lambda: any(message.get("op") == "gap" for message in watcher.got))
        published: list[str] = []
        for _ in range(3):
            client = Client(feed, "jobs:1", int(published[-1]) if published else "now")
            await client.until_ready()
            published.append(await publisher(redis)("jobs:1"))
            await until(lambda client=client: client.ids == published[-1:])

        assert [message.get("op") or message["id"] for message in watcher.got] == [ahead[1], "ready", "gap", *published]
        assert [message["op"] for message in client.got if "op" in message] == ["ready"]


async def test_the_kept_pages_of_many_channels_are_bounded(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads_module, "SHARED_BYTES", 20_000)
    async with running(redis_url) as feed:
        for i in range(10):
            await publisher(redis)(f"jobs:{i}", "progress", "x" * 5_000)
            await Client(feed, f"jobs:{i}").until_ready()

        assert 0 < len(feed.reads._reads) < 6
