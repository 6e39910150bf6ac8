"""The feed: clients read the log while they are behind, and get announcements once they are live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.core.page import Since
from gateway.embedded import embedded_server, free_port
from gateway.errors import Unavailable
from gateway.feed import LINGER_SECONDS, Feed
from gateway.reads import PAGE_BYTES, READS_IN_PIPELINE
from gateway.store import listener as listener_module
from gateway.store.client import redis_client
from tests.conftest import publisher
from tests.faults.proxy import Proxy
from tests.support.feeds import Client, hanging, reads, running
from tests.support.waiting import until


async def test_a_client_that_keeps_up_causes_no_read(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        published: list[str] = []
        for _ in range(5):
            connects, before = feed.listener.connects, await reads(redis)
            published += [await publisher(redis)("jobs:1", "progress", i, keep=1_000) for i in range(100)]
            await until(lambda published=published: len(client.ids) >= len(published) and client.subscription.live)
            if feed.listener.connects == connects:  # on a machine so busy that the connection was given up, everybody is behind
                break

        assert client.ids == published
        assert await reads(redis) == before


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_nobody_is_read_for_before_redis_has_confirmed_the_subscription(redis_url: str, redis: Redis) -> None:
    async with Proxy(port_of(redis_url)) as way, running(f"redis://127.0.0.1:{way.port}") as feed:
        other = Client(feed, "jobs:0")
        await other.until_ready()
        way.mode = "refuse"  # the connection for commands stays, but there is none for announcements
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: not other.subscription.live)
        client = Client(feed, "jobs:1")
        await asyncio.sleep(0.2)
        got = list(client.got)
        way.mode = "pass"
        await client.until_ready()

        assert got == []


async def test_what_was_read_before_a_lost_connection_is_not_given_out_after_it(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        first = await publisher(redis)("jobs:1")
        client = Client(feed, "jobs:1", int(first))
        await client.until_ready()
        async with redis.pipeline() as both:
            both.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            both.execute_command("FCALL", "notify_publish", 1, "jobs:1", "1")
            _, second = await both.execute()
        await until(lambda: client.ids)

        assert client.ids == [second.decode()]


async def test_after_a_lost_connection_nobody_reads_before_other_listeners_have_caught_up(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        lost = asyncio.Event()
        caught_up = feed.listen("!beside", lambda _: None, lost.set)
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await lost.wait()
        published = await publisher(redis)("jobs:1")
        async with asyncio.timeout(30):
            await feed.listener.confirmed(["jobs:1"])
        await asyncio.sleep(0.2)
        before = list(client.ids)
        caught_up.set()
        await until(lambda: client.ids)

        assert (before, client.ids) == ([], [published])


async def test_after_a_second_lost_connection_nobody_reads_before_the_channel_is_subscribed_again(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        losses = [asyncio.Event(), asyncio.Event()]
        remaining = iter(losses)

        def lose() -> None:
            next(remaining, losses[1]).set()
            if losses[1].is_set():
                caught_up.set()  # at the worst moment: the connection is gone, and the next one not there

        caught_up = feed.listen("!beside", lambda _: None, lose)
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await losses[0].wait()
        async with asyncio.timeout(30):
            await feed.listener.confirmed(["jobs:1"])
        await asyncio.sleep(0.05)  # the client waits for those beside by now
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await losses[1].wait()
        await asyncio.sleep(0.02)
        published = await publisher(redis)("jobs:1")
        await until(lambda: client.ids)

        assert client.ids == [published]


async def test_a_client_with_a_full_buffer_is_behind_and_reads_on_when_there_is_room(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        client.subscription.pause()
        published = [await publisher(redis)("jobs:1", "progress", i) for i in range(10)]
        await asyncio.sleep(0.2)
        while_full = list(client.ids)
        client.subscription.resume()
        await until(lambda: len(client.ids) >= 10)

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
        await until(lambda: not slow.subscription.reading)
        held = sum(len(json.dumps(message)) for message in slow.got)
        counted = slow.subscription in feed.behind
        await publisher(redis)("jobs:1", "completed")
        await until(lambda: not feed.reads._reads)

        assert PAGE_BYTES / 2 < held < PAGE_BYTES + 10_000
        assert not counted  # its slowness is not Redis's, for which an alert would wake somebody up


async def test_a_channel_without_followers_is_unsubscribed_after_a_while(redis_url: str, redis: Redis) -> None:
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


async def test_channels_are_given_up_in_the_order_in_which_they_were_left_and_only_those(redis_url: str) -> None:
    async with running(redis_url) as feed:
        clients = [Client(feed, {name: 0, "jobs:kept": 0}) for name in ("jobs:1", "jobs:2", "jobs:3")]
        for client in clients:
            await client.until_ready()
        for client in clients:
            feed.leave(client.subscription, [name for name in client.subscription.cursors if name != "jobs:kept"])
        feed.hub.idle = {channel: float(number) for number, channel in enumerate(feed.hub.idle, 1)}
        given_up = [feed.sweep(1.0), feed.sweep(2.0), feed.sweep(10.0, 1), feed.sweep(10.0), feed.sweep(10.0)]

        assert given_up == [0, 1, 1, 1, 0]
        assert set(feed.hub.channels) == {"jobs:kept"}


async def test_a_channel_that_is_asked_for_again_begins_anew_and_brings_each_event_once(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        first = await publisher(redis)("jobs:1")
        await until(lambda: client.ids == [first])
        feed.follow(client.subscription, {"jobs:1": 0})
        await until(lambda: client.subscription.live)
        second = await publisher(redis)("jobs:1")
        await until(lambda: client.ids[-1] == second)

        assert client.ids == [first, first, second]
        assert feed.hub.following == 1


@pytest.mark.parametrize("since", ["last", "now"])
async def test_nothing_is_lost_if_a_channel_is_asked_for_again_without_a_cursor(redis_url: str, redis: Redis, since: Since) -> None:
    async with running(redis_url) as feed:
        before = await publisher(redis)("jobs:1")
        client = Client(feed, "jobs:1", since)
        await client.until_ready()
        feed.follow(client.subscription, {"jobs:1": since})
        with SyncRedis.from_url(redis_url) as blocking:  # nothing is read for the client until this has returned
            published = [blocking.fcall("notify_publish", 1, "jobs:1", "1").decode() for _ in range(3)]
        await until(lambda: client.subscription.live)
        published.append(await publisher(redis)("jobs:1"))
        await until(lambda: client.ids[-1:] == published[-1:])

        assert client.ids == [before] * (since == "last") + published


async def test_a_client_that_has_left_is_not_counted_as_behind_and_is_told_nothing(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        async with hanging(redis):
            client = Client(feed, "jobs:1", 0)
            await asyncio.sleep(0)  # reading for it has begun
            behind = [len(feed.behind)]
            feed.leave(client.subscription)
            behind.append(len(feed.behind))
        await until(lambda: not client.subscription.reading)

        assert (behind, client.got) == ([1, 0], [])


async def test_a_job_is_over_for_a_client_that_has_its_final_event(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        first = int(await publisher(redis)("jobs:1", "progress"))
        end = int(await publisher(redis)("jobs:1", "completed", final=True))

        assert [await feed.is_over({"jobs:1": cursor}) for cursor in (first, end)] == [False, True]
        assert not await feed.is_over({"jobs:1": end, "jobs:2": end})


@asynccontextmanager
async def only_good_readable(redis: Redis) -> AsyncIterator[None]:
    """Redis refuses to read any log but that of jobs:good."""
    keys = ("~jobs:*", "~notify:clock", "~notify:holder", "~notify:last:*", "~notify:log:{jobs:good}")
    await redis.execute_command("ACL", "SETUSER", "default", "resetkeys", *keys)
    try:
        yield
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "allkeys")


async def test_a_job_is_not_over_while_its_log_cannot_be_read(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        end = int(await publisher(redis)("jobs:bad", "completed", final=True))
        async with only_good_readable(redis):
            assert not await feed.is_over({"jobs:bad": end})


async def test_whether_a_job_is_over_is_not_known_while_redis_is_away() -> None:
    async with redis_client(f"redis://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unavailable):
            await Feed(client).is_over({"jobs:1": 1})


async def test_after_redis_lost_its_data_a_client_gets_one_gap_and_reads_only_a_few_times(redis_url: str, redis: Redis) -> None:
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
        await until(lambda: client.ids[-1:] == [later] and watcher.ids[-1:] == [later])

        assert [message["op"] for message in client.got if "op" in message] == ["gap", "ready"]
        assert client.ids == [later]
        assert watcher.ids == [*published, later]
        assert used <= 3


async def test_more_clients_than_one_pipeline_has_reads_for_are_all_read_for(redis_url: str) -> None:
    async with running(redis_url) as feed:
        for client in [Client(feed, "jobs:1") for _ in range(2 * READS_IN_PIPELINE + 1)]:
            await client.until_ready()


async def test_a_client_for_which_reading_fails_is_sent_away_and_the_others_are_read_for(redis_url: str) -> None:
    def fail(_: bytes) -> None:
        raise ValueError

    async with running(redis_url) as feed:
        failed = asyncio.Event()
        bad, good = Client(feed, "jobs:1"), Client(feed, "jobs:1")
        bad.subscription.write, bad.subscription.on_failed = fail, failed.set
        async with asyncio.timeout(30):
            await failed.wait()
        await good.until_ready()


async def test_a_channel_that_cannot_be_read_does_not_delay_others(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        async with only_good_readable(redis):
            bad, good = Client(feed, "jobs:bad", 0), Client(feed, "jobs:good", 0)
            await good.until_ready()
            before = await reads(redis)
            await asyncio.sleep(0.3)
            used = await reads(redis) - before
        await bad.until_ready()

        assert used <= 4  # it is tried again after a pause
        assert good.subscription.live
        assert bad.subscription.live


async def test_a_log_whose_place_another_key_takes_is_a_gap_and_holds_back_no_other_channel(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        await publisher(redis)("jobs:bad", "progress")
        await redis.set("notify:log:{jobs:bad}", "not a list")
        client = Client(feed, "jobs:bad", 0)
        feed.follow(client.subscription, {"jobs:good": 0})
        await client.until_ready()
        good = await publisher(redis)("jobs:good", "progress")
        await until(lambda: client.ids == [good])
        await redis.delete("notify:log:{jobs:bad}")
        again = await publisher(redis)("jobs:bad", "progress")
        await until(lambda: client.ids == [good, again])

        assert [message["channel"] for message in client.got if message.get("op") == "gap"] == ["jobs:bad"]


async def test_a_client_that_connects_while_redis_hangs_is_greeted(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        async with hanging(redis):
            client = Client(feed, "jobs:1", greeting=b'"hello"')
            await until(lambda: client.got)
            got = list(client.got)
        await client.until_ready()

        assert got == ["hello"]
        assert client.got.count("hello") == 1


async def test_a_forged_announcement_does_not_keep_clients_reading(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        Client(feed, "jobs:1", 0)
        published = await publisher(redis)("jobs:1", "progress")
        await redis.publish("notify:jobs:1", "9007199254740991 9007199254740990\n1")
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        await until(lambda: not feed.behind)  # the forged id is forgotten once, for which everybody reads on
        before = await reads(redis)
        await asyncio.sleep(0.3)

        assert client.ids == [published]
        assert await reads(redis) - before <= 2


async def test_a_client_that_keeps_up_gets_a_gap_too_if_another_master_has_recorded_events(redis_url: str, redis: Redis) -> None:
    # As when the server was demoted, and promoted again without what the other one took, and no connection was closed.
    async with running(redis_url) as feed:
        client = Client(feed, "jobs:1", 0)
        first = await publisher(redis)("jobs:1", "progress")
        await client.until_ready()
        await until(lambda: client.ids == [first])
        holder: Any = await redis.get("notify:holder")
        await redis.set("notify:holder", b"0" * 40 + b"-" + b"0" * 40 + b" " + holder.partition(b" ")[2])
        await asyncio.sleep(1)  # the library asks once in a second who holds the data
        second = await publisher(redis)("jobs:1", "progress")
        await until(lambda: second in client.ids)

    told = [message.get("op", message.get("id")) for message in client.got]
    assert told in (["ready", first, "gap", second], [first, "ready", "gap", second])


async def fill_memory(redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)


async def lose_replicas(redis: Redis) -> None:
    await redis.config_set("min-replicas-to-write", 1)


async def fill_disk(redis: Redis) -> None:
    folder = Path(str((await redis.config_get("dir"))["dir"]))
    (folder / "dump.rdb" / "in the way").mkdir(parents=True)
    await redis.config_set("save", "3600 1")
    await redis.execute_command("BGSAVE")
    async with asyncio.timeout(30):
        while (await redis.info("persistence"))["rdb_last_bgsave_status"] != "err":
            await asyncio.sleep(0.01)


async def pings(redis: Redis) -> int:
    """How often the server was pinged, those that it has refused among them."""
    stats = (await redis.info("commandstats")).get("cmdstat_ping", {})
    return int(stats.get("calls", 0)) + int(stats.get("rejected_calls", 0))


@pytest.mark.parametrize("refuse_writes", [fill_memory, lose_replicas, fill_disk])
async def test_a_redis_that_refuses_writes_is_still_read(
    redis_url: str, redis: Redis, refuse_writes: Callable[[Redis], Awaitable[None]]
) -> None:
    async with running(redis_url) as feed:
        published = await publisher(redis)("jobs:1")
        await refuse_writes(redis)
        with pytest.raises(ResponseError):
            await publisher(redis)("jobs:1")
        connects, pinged = feed.listener.connects, await pings(redis)
        async with asyncio.timeout(30):
            while await pings(redis) < pinged + 2:
                await asyncio.sleep(0.01)
        stayed = feed.listener.connects == connects
        await redis.client_kill_filter(_type="pubsub")
        await until(lambda: feed.listener.connects != connects)
        client = Client(feed, "jobs:1", 0)
        await client.until_ready()
        await redis.config_set("save", "")  # one that cannot save does not end either

        assert client.ids == [published]
        assert stayed


class TwoMasters(NamedTuple):
    """A master whose replica was promoted after the first event, and a client of the old one's."""

    way: Proxy
    old: Redis
    new: Redis
    new_port: int
    feed: Feed
    client: Client
    published: list[str]

    async def publish(self, master: Redis) -> None:
        self.published.append(await publisher(master)("jobs:1"))

    def lead_to_the_new_one(self) -> None:
        self.way.target = self.new_port


@asynccontextmanager
async def two_masters() -> AsyncIterator[TwoMasters]:
    with embedded_server("--repl-diskless-sync-delay", "0") as url, embedded_server() as another:
        async with redis_client(url) as old, redis_client(another) as new, Proxy(port_of(url)) as way, asyncio.timeout(30):
            await new.replicaof("127.0.0.1", str(port_of(url)))
            async with running(f"redis://127.0.0.1:{way.port}") as feed:
                client = Client(feed, "jobs:1", 0)
                await client.until_ready()
                both = TwoMasters(way, old, new, port_of(another), feed, client, [])
                await both.publish(old)
                await until(lambda: client.ids == both.published)
                while not await new.exists("notify:log:{jobs:1}"):
                    await asyncio.sleep(0.01)
                await new.replicaof("NO", "ONE")
                yield both
                assert client.ids == both.published
                assert [message["op"] for message in client.got if "op" in message] == ["ready", "gap"]


async def test_clients_of_an_old_master_get_a_gap_when_the_address_leads_to_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # The old master is well, and takes events until the gateway finds that the address has moved. What the new one has taken by then
    # lies in part below the cursors of those who follow the old one.
    monkeypatch.setattr(listener_module, "MASTER_SECONDS", 0.05)
    async with two_masters() as both:
        await publisher(both.new)("jobs:1")
        await both.publish(both.old)
        await until(lambda: both.client.ids == both.published)
        await both.publish(both.new)
        await asyncio.sleep(0.2)  # a check or two
        both.lead_to_the_new_one()
        await until(lambda: "gap" in [message.get("op") for message in both.client.got])
        await both.publish(both.new)
        await until(lambda: both.client.ids[-1] == both.published[-1])


async def test_what_an_old_master_passes_on_from_the_new_one_costs_no_second_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first gap lies where the new master was promoted, because what the old one had taken last may be lost.
    monkeypatch.setattr(listener_module, "MASTER_SECONDS", 3)  # time for the old master to connect to the new one
    async with two_masters() as both:
        await both.old.replicaof("127.0.0.1", str(both.new_port))
        while (await both.old.info("replication"))["master_link_status"] != "up":
            await asyncio.sleep(0.01)
        await both.publish(both.new)
        # On a busy machine the gateway may notice the replica before it hears that.
        await until(lambda: both.client.ids == both.published or both.feed.listener.relayed)
        both.lead_to_the_new_one()
        connects = both.feed.listener.connects
        await until(lambda: both.feed.listener.connects > connects)
        await both.publish(both.new)
        await until(lambda: both.client.ids == both.published)


async def test_a_client_that_comes_before_the_feed_runs_is_read_for_once_it_does(redis_url: str) -> None:
    async with redis_client(redis_url) as redis:
        feed = Feed(redis)
        client = Client(feed, "jobs:1")
        running = asyncio.ensure_future(feed.run())
        await client.until_ready()
        running.cancel()
        await asyncio.wait([running])


async def test_a_feed_whose_listener_has_ended_ends(redis_url: str) -> None:
    client = redis_client(redis_url)
    running = asyncio.ensure_future(Feed(client).run())
    async with asyncio.timeout(30):
        while not (listeners := [task for task in asyncio.all_tasks() if task.get_name() == "Listener.run"]):
            await asyncio.sleep(0)
        listeners[0].cancel()
        with pytest.raises(RuntimeError, match=r"Listener\.run has ended"):
            await running
    await client.aclose()
