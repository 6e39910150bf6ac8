"""The feed: behind, then live, and reads that are shared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from gateway.core.event import TEXT
from gateway.core.page import Since
from gateway.core.subscription import Subscription
from gateway.feed import KEPT_BYTES, LINGER_SECONDS, PAGE_BYTES, Feed
from gateway.store.connect import redis_client
from tests.conftest import publisher


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Feed]:
    client = redis_client(url)
    feed = Feed(client)
    task = asyncio.ensure_future(feed.run())
    try:
        async with asyncio.timeout(5):
            while not feed.ready:
                await asyncio.sleep(0.01)
        yield feed
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()


class Client:
    """Takes what a subscription writes."""

    def __init__(self, feed: Feed, channel: str | dict[str, Since], since: Since = 0) -> None:
        self.got: list[dict[str, Any]] = []
        self.subscription = Subscription(
            wire=TEXT,
            write=lambda data: self.got.append(json.loads(data)),
            on_behind=feed.catch_up,
            on_done=lambda: None,
            on_failed=lambda: None,
        )
        feed.follow(self.subscription, {channel: since} if isinstance(channel, str) else channel)

    async def until_ready(self) -> None:
        async with asyncio.timeout(10):
            while not any(message.get("op") == "ready" for message in self.got):
                await asyncio.sleep(0.01)

    @property
    def ids(self) -> list[str]:
        return [message["id"] for message in self.got if "id" in message]


async def reads(client: Redis) -> int:
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_fcall_ro", {}).get("calls", 0))


async def test_a_thousand_who_come_back_at_one_cursor_share_one_read(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(5)]
        before = await reads(redis)
        clients = [Client(feed, "jobs:1", int(published[1])) for _ in range(1_000)]
        await asyncio.gather(*(client.until_ready() for client in clients))
        shared = await reads(redis) - before

        assert shared == 1
        assert all(client.ids == published[2:] for client in clients)


async def test_who_keeps_up_costs_no_read(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        before = await reads(redis)
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(100)]
        async with asyncio.timeout(5):
            while len(client.ids) < 100:
                await asyncio.sleep(0.01)

        assert client.ids == published
        assert await reads(redis) == before
        assert client.subscription.live


async def test_a_full_client_is_behind_and_reads_on_when_there_is_room(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        client.subscription.pause()
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(10)]
        await asyncio.sleep(0.2)
        while_full = list(client.ids)
        client.subscription.resume()
        async with asyncio.timeout(5):
            while len(client.ids) < 10:
                await asyncio.sleep(0.01)

        assert while_full == []
        assert client.ids == published


async def test_a_slow_client_holds_one_page_and_leaves_none_behind(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        for i in range(30):
            await publisher(redis)("jobs:1", "progress", f"{i}" + "x" * 8_000)
        slow = Client(feed, "jobs:1")

        def take(data: bytes) -> None:
            slow.got.append(json.loads(data))
            slow.subscription.pause()

        slow.subscription.write = take
        async with asyncio.timeout(5):
            while slow.subscription.reading:
                await asyncio.sleep(0.01)
        held = sum(len(json.dumps(message)) for message in slow.got)
        await publisher(redis)("jobs:1", "completed")
        async with asyncio.timeout(5):
            while feed.reads._reads:
                await asyncio.sleep(0.01)

        assert PAGE_BYTES / 2 < held < PAGE_BYTES + 10_000


async def test_of_a_long_log_read_at_one_go_few_pages_are_kept(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        for i in range(80):
            await publisher(redis)("jobs:1", "progress", f"{i}" + "x" * 8_000)
        client = Client(feed, "jobs:1", 0)
        async with asyncio.timeout(5):
            while len(client.ids) < 80:
                await asyncio.sleep(0.01)
        kept = sum(read.page.result().size for reads in feed.reads._reads.values() for read in reads.values())

        assert PAGE_BYTES < kept <= KEPT_BYTES + PAGE_BYTES


async def test_a_channel_nobody_follows_is_given_up_after_a_while(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        feed.leave(client.subscription)
        kept = await redis.pubsub_numsub("notify:jobs:1")
        async with asyncio.timeout(LINGER_SECONDS + 5):
            while (await redis.pubsub_numsub("notify:jobs:1"))[0][1]:
                await asyncio.sleep(0.05)

        assert kept == [(b"notify:jobs:1", 1)]
        assert "jobs:1" not in feed.hub.channels


async def test_a_job_is_over_for_who_has_its_final_event(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        first = int(await publisher(redis)("jobs:1", "progress"))
        end = int(await publisher(redis)("jobs:1", "completed", final=True))

        assert [await feed.is_over({"jobs:1": cursor}) for cursor in (first, end)] == [False, True]
        assert not await feed.is_over({"jobs:1": end, "jobs:2": end})


async def test_those_who_come_one_after_the_other_share_it_too(redis_url: str, redis: Redis) -> None:
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
        async with asyncio.timeout(10):
            while not all(len(client.ids) == 65 for client in clients):
                await asyncio.sleep(0.01)

        assert all(client.ids == published[5:] for client in clients)
        assert await reads(redis) - before <= 2 + 2 * 50


async def test_who_comes_for_the_newest_event_gets_that_of_now_even_if_it_was_not_announced_yet(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        await publisher(redis)("jobs:1", "started")
        first = Client(feed, "jobs:1", "last")
        await first.until_ready()
        with SyncRedis.from_url(redis_url) as blocking:  # the event loop stands still: nothing is heard meanwhile
            blocking.execute_command("FCALL", "notify_publish", 1, "jobs:1", '{"type":"completed","final":true}')
        second = Client(feed, "jobs:1", "last")
        await second.until_ready()

        assert [message.get("type", message.get("op")) for message in second.got[:2]] == ["completed", "ready"]


async def test_a_redis_without_its_data_is_told_of_once_and_not_read_for_ever(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(3)]
        watcher = Client(feed, "jobs:1", 0)
        await watcher.until_ready()
        await redis.flushall()
        before = await reads(redis)
        client = Client(feed, "jobs:1", int(published[0]))
        await client.until_ready()
        await asyncio.sleep(0.3)
        used = await reads(redis) - before
        later = await publisher(redis)("jobs:1", "progress", 3)
        async with asyncio.timeout(5):
            while client.ids[-1:] != [later] or watcher.ids[-1:] != [later]:
                await asyncio.sleep(0.01)

        assert [message["op"] for message in client.got if "op" in message] == ["gap", "ready"]
        assert client.ids == [later]
        assert watcher.ids == [*published, later]
        assert used <= 3


async def test_a_channel_that_cannot_be_read_holds_up_nobody_else(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        await redis.set("notify:log:{jobs:bad}", "not a list")
        bad, good = Client(feed, "jobs:bad", 0), Client(feed, "jobs:good", 0)
        await good.until_ready()
        await redis.delete("notify:log:{jobs:bad}")
        await bad.until_ready()

        assert good.subscription.live
        assert bad.subscription.live


async def test_ready_means_that_a_probe_has_come_back_lately(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.feed.READY_SECONDS", 1.5)
    server = int((await redis.info("server"))["process_id"])
    async with running(redis_url) as feed:
        os.kill(server, signal.SIGSTOP)
        try:
            await until_ready(feed, expected=False)
        finally:
            os.kill(server, signal.SIGCONT)
        await until_ready(feed, expected=True)


async def until_ready(feed: Feed, *, expected: bool) -> None:
    async with asyncio.timeout(5):
        while feed.ready is not expected:
            await asyncio.sleep(0.01)


async def test_a_forged_announcement_does_not_keep_anybody_reading(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        Client(feed, "jobs:1", 0)
        published = await publisher(redis)("jobs:1", "progress")
        await redis.publish("notify:jobs:1", "9007199254740991 9007199254740990\n1")
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        before = await reads(redis)
        await asyncio.sleep(0.3)

        assert client.ids == [published]
        assert await reads(redis) - before <= 2
