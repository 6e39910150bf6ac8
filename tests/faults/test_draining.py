"""A gateway that shuts down, or whose connections grow old, closes them spread over time, and clients lose nothing."""

from __future__ import annotations

import asyncio
import time

from tests.faults.scenario import channel_names, moments, peak, two_of
from tests.faults.stage import EVERY_TRANSPORT, Stage, address


async def test_a_drain_closes_connections_spread_over_its_time_and_loses_nothing(stage: Stage) -> None:
    redis = await stage.redis()
    drain = stage.size(5, 10)
    within = drain + stage.size(20, 5)
    first = await stage.gateway(redis.url, drain_seconds=str(drain))
    second = await stage.gateway(redis.url, serving=False)
    channels = channel_names(stage.size(10, 50))
    streams = stage.follow(stage.size(200, 2_000), two_of(channels), ("ws", "ws", "sse"))
    polls = stage.follow(stage.size(5, 50), two_of(channels), ("poll",))
    await stage.all_ready(within=120)
    send = stage.function(redis.url)

    async with stage.load([send], channels, stage.size(30, 100), labels=0.2, keep=10_000):
        stage.addresses[:] = [address(second)]  # a load balancer would do this first
        await asyncio.sleep(0.5)
        began = time.monotonic()
        status = await first.stop(within)
        lasted = time.monotonic() - began
    await stage.caught_up(send, 5)

    closes = [*moments(streams, "end", "close 1012", began), *moments(streams, "end", "bye 1012", began)]
    assert status == 0, first.output()[-2000:]
    assert len(closes) == len(streams)
    stage.figure("exit after", lasted, within)
    stage.figure("most closes in a second", peak(closes, began, drain), 3, "times the mean")
    opens = moments(streams, "open", "", began)
    stage.figure("most reconnects in a second", peak(opens, began, drain), 2 if stage.full else 3, "times the mean")
    assert not moments(polls, "end", "", began)
    stage.verdict()


async def test_streams_are_closed_at_their_maximum_age_and_reconnect(stage: Stage) -> None:
    redis = await stage.redis()
    age = stage.size(3, 20)
    gateway = await stage.gateway(redis.url, max_age_seconds=str(age))
    channels = channel_names(stage.size(5, 50))
    began = time.monotonic()
    streams = stage.follow(stage.size(40, 1_000), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    async with stage.load([send], channels, stage.size(30, 100), labels=0.2, keep=10_000), asyncio.timeout(age * 10):
        while not all(follower.transport == "poll" or follower.reconnects for follower in streams):
            await asyncio.sleep(0.05)
    await stage.caught_up(send, 5)

    ends = moments(streams, "end", "", began)
    assert len(ends) == len(moments(streams, "end", "close 1012", began)) + len(moments(streams, "end", "bye 1012", began))
    assert ends[-1] - ends[0] > age / 10, [round(end - began, 3) for end in ends]
    assert gateway.running
    stage.verdict()
