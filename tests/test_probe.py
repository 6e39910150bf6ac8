"""Whether events get through, as a probe finds out."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from gateway import metrics
from gateway.errors import Unavailable
from gateway.feed import Feed
from gateway.probe import AWAY_SECONDS, READY_SECONDS, Probe
from gateway.store.listener import Listener
from gateway.store.log import Log
from tests.support.feeds import hanging, running
from tests.support.waiting import until


async def until_ready(feed: Feed, *, expected: bool) -> None:
    await until(lambda: feed.ready is expected)


async def test_ready_means_that_a_probe_has_come_back_lately(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.probe.READY_SECONDS", 1.5)
    async with running(redis_url) as feed:
        async with hanging(redis):
            await until_ready(feed, expected=False)
        await until_ready(feed, expected=True)


async def test_the_newest_probe_that_came_back_tells_how_long_ago_events_got_through() -> None:
    client = Redis()
    listener = Listener(client, "notify", on_message=print, on_lost=print, on_connected=print)
    probe = Probe(listener, Log(client))
    problems = [probe.problem]
    counted = sum(metrics.ROUND_TRIP.read()[:-1])
    for seconds_ago in (60, 0, 30):
        probe.receive(str(time.monotonic_ns() - seconds_ago * 10**9).encode())
        problems.append(probe.problem)

    none = "no probe has come back from Redis in the last 4.5 s"
    assert problems == [none, none, "", ""]
    assert 0 <= probe.age < READY_SECONDS
    assert sum(metrics.ROUND_TRIP.read()[:-1]) == counted + 3


async def test_before_the_first_probe_comes_back_their_age_counts_from_the_start_and_not_from_that_of_the_machine() -> None:
    client = Redis()
    listener = Listener(client, "notify", on_message=print, on_lost=print, on_connected=print)

    assert READY_SECONDS <= Probe(listener, Log(client)).age < READY_SECONDS + 60


class AwayLog(Log):
    """The log of a Redis that is away."""

    asked = 0

    async def probe(self, channel: str, json: bytes) -> None:
        self.asked += 1
        raise Unavailable("on purpose")


@pytest.mark.parametrize(("seconds", "again"), [(1_000, False), (0, True)])
async def test_probes_are_sent_with_pauses_also_while_redis_is_away(monkeypatch: pytest.MonkeyPatch, seconds: float, again: bool) -> None:
    monkeypatch.setattr("gateway.probe.PROBE_SECONDS", seconds)
    client = Redis()
    log = AwayLog(client)
    probing = asyncio.ensure_future(Probe(Listener(client, "notify", on_message=print, on_lost=print, on_connected=print), log).run())
    for _ in range(10):
        await asyncio.sleep(0)
    done = probing.done()
    probing.cancel()

    assert not done
    assert log.asked
    assert (log.asked > 1) is again


@pytest.mark.parametrize("gone", [["FLUSH"], ["DELETE", "notify"]], ids=["flushed", "deleted"])
async def test_publishers_find_the_function_again_soon_after_somebody_has_removed_it(redis_url: str, redis: Redis, gone: list[str]) -> None:
    async with running(redis_url):
        await redis.execute_command("FUNCTION", *gone)
        async with asyncio.timeout(30):
            while not await redis.execute_command("FUNCTION", "LIST", "LIBRARYNAME", "notify"):
                await asyncio.sleep(0.01)

        assert await redis.fcall("notify_publish", 1, "jobs:1", "1")


async def test_a_lost_connection_makes_it_unready_before_a_probe_is_missed(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.probe.READY_SECONDS", 60)
    async with running(redis_url) as feed:
        async with hanging(redis):
            await until_ready(feed, expected=False)
            why = feed.probe.problem
        await until_ready(feed, expected=True)

        assert why == "there is no connection to Redis"


async def test_a_connection_that_comes_back_at_once_leaves_it_ready(redis_url: str, redis: Redis) -> None:
    async with running(redis_url) as feed:
        connects = feed.listener.connects
        await redis.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(30):
            while feed.listener.connects == connects:
                assert feed.ready or feed.listener.away >= AWAY_SECONDS
                await asyncio.sleep(0)

        assert feed.ready
        assert feed.listener.away == 0
