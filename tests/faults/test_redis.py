"""Redis fails: it stops, hangs, loses its data, is replaced, is full, or turns its clock back."""

from __future__ import annotations

import asyncio
import random
import re
import time

from tests.faults.scenario import GIVE_UP_SECONDS, channel_names, two_of
from tests.faults.servers import Gateway
from tests.faults.stage import EVERY_TRANSPORT, Stage


async def lost_connection(gateway: Gateway) -> float:
    """Seconds until the gateway says that it has lost Redis."""
    started, known = time.monotonic(), len(gateway.output())
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while "connection to Redis lost" not in gateway.output()[known:]:
            await asyncio.sleep(0.02)
    return time.monotonic() - started


async def not_ready(gateway: Gateway, since: float) -> float:
    """Seconds until ``/readyz`` answers 503."""
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while await gateway.status() != 503:
            await asyncio.sleep(0.05)
    return time.monotonic() - since


async def test_01_redis_stopped_and_started_again_with_aof(stage: Stage) -> None:
    redis = await stage.redis(aof=True)
    gateway = await stage.gateway(redis.url)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(60, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    sends = [stage.function(redis.url), stage.http(), stage.library(redis.url)]

    async with stage.load(sends, channels, stage.size(100, 500), labels=0.3, retry=30, keep=10_000):
        for _ in range(stage.size(1, 4)):
            await asyncio.sleep(stage.rng.uniform(0.3, 1))
            await redis.stop()
            await asyncio.sleep(stage.rng.uniform(0, 1.5))
            await redis.start()
            answered = time.monotonic()
            await asyncio.sleep(0)
            probes = await gateway.metric("gateway_redis_round_trip_seconds_count")
            while await gateway.metric("gateway_redis_round_trip_seconds_count") == probes:
                await asyncio.sleep(0.02)
            stage.figure("live again after it answers", time.monotonic() - answered, 2)
        await asyncio.sleep(0.3)
    await stage.caught_up(sends[0], 5)

    stage.verdict()


async def test_02_redis_killed_without_persistence(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(60, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    sends = [stage.function(redis.url), stage.library(redis.url)]

    async with stage.load(sends, channels, stage.size(100, 500), labels=0.2, keep=10_000):
        await asyncio.sleep(stage.rng.uniform(0.3, 1))
        away = stage.rng.sample(stage.followers, len(stage.followers) // 4)
        for follower in away:
            follower.go_away()
        await asyncio.sleep(stage.rng.uniform(0.2, 0.5))
        for _ in range(stage.rng.randint(1, 2)):
            redis.kill()
            stage.ledger.may_lose()
            await redis.start()  # publishers connect to it before the gateway does
            await asyncio.sleep(stage.rng.uniform(0, 0.6))
        for follower in away:
            follower.come_back()
        await asyncio.sleep(0.5)
    await stage.caught_up(sends[0], 5)

    verdict = stage.verdict(gaps=None)
    assert verdict.gaps > len(stage.followers)


async def test_02_each_client_is_told_of_the_gap_before_its_next_event(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url)
    stage.follow(9, lambda _: {"jobs:1": "0"}, EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)
    await stage.publish(send, "jobs:1", retry=20)
    await stage.caught_up(send, 5)

    redis.kill()
    stage.ledger.may_lose()
    await redis.start()
    await stage.publish(send, "jobs:1", retry=20)
    await stage.caught_up(send, 5)

    # Two events, then at least one notice of the gap, then the others.
    kinds = {" ".join(line.kind for line in f.log.lines if line.kind in ("event", "gap")) for f in stage.followers}
    assert {re.sub("(gap )+", "gap ", kind) for kind in kinds} == {"event event gap event event"}
    stage.verdict(gaps=None)


async def test_03_fail_over_to_a_replica_that_lags(stage: Stage) -> None:
    master = await stage.redis("master", aof=True)
    replication = await stage.proxy(master.port)
    replica = await stage.redis("replica", aof=True, arguments=["--replicaof", "127.0.0.1", str(replication.port)])
    way = await stage.proxy(master.port)
    url = f"redis://127.0.0.1:{way.port}"
    await stage.gateway(url)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(60, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    await replica.replicating()
    sends = [stage.function(url), stage.library(url)]

    async with stage.load(sends, channels, stage.size(100, 500), labels=0.2, keep=10_000):
        await asyncio.sleep(stage.rng.uniform(0.3, 1))
        replication.mode = "swallow"
        away = stage.rng.sample(stage.followers, len(stage.followers) // 3)
        for follower in away:
            follower.go_away()
        await asyncio.sleep(stage.rng.uniform(0.1, 1))
        stage.ledger.may_lose()
        if stage.rng.random() < 0.5:
            master.kill()
        await replica.client.execute_command("REPLICAOF", "NO", "ONE")
        way.target = replica.port
        way.reset()
        await asyncio.sleep(stage.rng.uniform(0, 0.5))
        for follower in away:
            follower.come_back()
        await asyncio.sleep(0.5)
    await stage.caught_up(sends[0], 5)

    stage.verdict(gaps=None)
    assert any(f.log.gaps() for f in away)


async def test_03_the_old_master_lives_on_as_a_replica_and_closes_no_connection(stage: Stage) -> None:
    master = await stage.redis("master", aof=True)
    replica = await stage.redis("replica", aof=True, arguments=["--replicaof", "127.0.0.1", str(master.port)])
    way = await stage.proxy(master.port)
    gateway = await stage.gateway(f"redis://127.0.0.1:{way.port}")
    channels = channel_names(stage.size(5, 50))
    stage.follow(stage.size(15, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    await replica.replicating()
    send = stage.http()

    async with stage.load([send], channels, stage.size(50, 200), retry=30, keep=10_000):
        await asyncio.sleep(0.3)
        noticed = asyncio.ensure_future(lost_connection(gateway))
        stage.ledger.may_lose()
        await replica.client.execute_command("REPLICAOF", "NO", "ONE")
        way.target = replica.port  # for new connections
        await master.client.execute_command("REPLICAOF", "127.0.0.1", str(replica.port))
        stage.figure("noticed", await noticed, 3)
    await stage.caught_up(stage.function(replica.url), 5)

    stage.verdict(gaps=None)


async def test_04_redis_hangs(stage: Stage) -> None:
    redis = await stage.redis(aof=True)
    gateway = await stage.gateway(redis.url)
    channels = channel_names(stage.size(30, 250))
    stage.follow(stage.size(60, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = await stage.pipelined(redis)
    rate = stage.size(100, 500)

    async with (
        stage.load([send], channels, rate, workers=20 * rate, keep=10_000),
        stage.load([stage.http()], channels, 20, retry=40, keep=10_000),
    ):
        await asyncio.sleep(1)
        redis.hang()
        hung = time.monotonic()
        noticed = asyncio.ensure_future(lost_connection(gateway))
        stage.figure("/readyz 503", await not_ready(gateway, hung), 5)
        stage.figure("noticed", await noticed, 3)
        await asyncio.sleep(stage.size(0, 10) - (time.monotonic() - hung))
        redis.go_on()
        went_on = time.monotonic()
        await gateway.ready()
    await stage.caught_up(send, 5, since=went_on)

    begun = len(stage.ledger.publications)
    assert begun > 0.9 * rate * (went_on - hung), f"{begun} events in {went_on - hung:.1f} s"
    stage.verdict()


async def test_04_connection_to_redis_is_half_open(stage: Stage) -> None:
    redis = await stage.redis(aof=True)
    way = await stage.proxy(redis.port)
    gateway = await stage.gateway(f"redis://127.0.0.1:{way.port}")
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(40, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    async with stage.load([send], channels, stage.size(100, 500), keep=10_000):
        await asyncio.sleep(0.5)
        way.mode = "swallow"
        stage.figure("noticed", await lost_connection(gateway), 3)
        await asyncio.sleep(stage.size(0, 4))
        way.mode = "pass"
        healed = time.monotonic()
        await asyncio.sleep(0.2)
    await stage.caught_up(send, 5, since=healed)

    stage.verdict()


async def test_05_the_pubsub_connection_is_killed_every_200_ms(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(60, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    sends = [stage.function(redis.url), stage.http()]

    async with stage.load(sends, channels, stage.size(100, 500), retry=20, keep=10_000):
        killed = 0
        async with asyncio.timeout(120):
            while killed < stage.size(5, 50):  # a slow gateway may not have reconnected yet, so nothing is killed
                killed += await redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.2)
    await stage.caught_up(sends[0], 5)

    assert await gateway.metric("gateway_redis_connects_total") > killed
    stage.verdict()


async def test_05_the_output_buffer_overflows(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    await redis.client.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
    channels = channel_names(5)
    stage.follow(stage.size(30, 200), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    gateway.hang()
    async with asyncio.timeout(60):
        # Redis closes the connection once its buffer and those of the two sockets are full.
        while (await redis.client.info("clients"))["pubsub_clients"]:
            await asyncio.gather(*(stage.publish(send, stage.rng.choice(channels), size=20_000, keep=10_000) for _ in range(50)))
    gateway.go_on()
    await stage.caught_up(send, 10)  # this process receives up to a gigabyte

    assert "connection to Redis lost" in gateway.output()
    stage.verdict()


async def test_06_memory_is_full(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url)
    channels = channel_names(5)
    stage.follow(stage.size(30, 200), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    sends = [stage.function(redis.url), stage.http()]

    async with stage.load(sends, channels, 200, keep=10_000, size=200):
        await asyncio.sleep(0.3)
        await redis.client.config_set("maxmemory", "1mb")
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while stage.ledger.count("refused") < 20:
                await asyncio.sleep(0.05)
        await redis.client.config_set("maxmemory", "0")
        await asyncio.sleep(0.3)
    await stage.caught_up(sends[0], 5)

    stage.verdict()


async def test_07_the_log_no_longer_reaches_back_to_the_cursor(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url)
    channels = ["trimmed", "expired", "evicted", "whole", "quiet"]
    stage.follow(12, lambda _: dict.fromkeys(channels, "0"), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)
    for channel in channels:
        await stage.publish(send, channel)
    await stage.caught_up(send, 5)

    for follower in stage.followers:
        follower.go_away()
    for _ in range(10):
        for channel in channels[:4]:
            await stage.publish(send, channel, keep=3 if channel == "trimmed" else None, ttl=1 if channel == "expired" else None)
    await redis.client.unlink("notify:log:{evicted}")
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while await redis.client.exists("notify:log:{expired}"):
            await asyncio.sleep(0.05)
    for follower in stage.followers:
        follower.come_back()
    await stage.caught_up(send, 5)

    stage.verdict(gaps=None)
    for follower in stage.followers:
        assert {line.channel for line in follower.log.lines if line.kind == "gap"} == {"trimmed", "expired", "evicted"}


async def test_08_the_clock_of_the_redis_host_is_set_back(stage: Stage) -> None:
    redis = await stage.redis(aof=True)
    await stage.gateway(redis.url)
    channels = channel_names(5)
    stage.follow(stage.size(30, 200), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    async with stage.load([send], channels, 100, retry=20, keep=10_000):
        await asyncio.sleep(0.3)
        # Moving the newest id an hour ahead of the clock has the same effect on the script as setting the clock back.
        ahead = int((time.time() + 3600) * 1e6)
        await redis.client.set("notify:clock", str(ahead))
        await asyncio.sleep(0.5)
        for follower in stage.followers:
            follower.drop()
        await redis.stop()
        await redis.start()
        await asyncio.sleep(0.5)
    await stage.caught_up(send, 5)

    assert all(p.id > ahead for p in stage.ledger.publications[-5:])
    stage.verdict()


async def test_03_sentinel_fails_over(stage: Stage) -> None:
    master = await stage.redis("master", aof=True)
    replica = await stage.redis("replica", aof=True, arguments=["--replicaof", "127.0.0.1", str(master.port)])
    await replica.replicating()
    sentinel = await stage.sentinel(master)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while not await sentinel.replicas():
            await asyncio.sleep(0.05)
    dead = stage.rng.random() < 0.5
    nobody = random.Random(stage.seed).choice(["127.0.0.1:1", f"127.0.0.1:{sentinel.port}"])
    url = f"redis+sentinel://{nobody},127.0.0.1:{sentinel.port}/mymaster"
    await stage.gateway(url)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(60, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    # While both are masters, events published directly to the old one are lost, so only the gateway, which follows Sentinel, publishes.
    sends = [stage.http(), *([stage.function(url)] if dead else [])]

    async with stage.load(sends, channels, stage.size(100, 500), keep=10_000):
        await asyncio.sleep(0.5)
        stage.ledger.may_lose()
        if dead:
            master.kill()
        else:  # the old master lives on and becomes a replica
            await sentinel.client.execute_command("SENTINEL", "FAILOVER", "mymaster")
        async with asyncio.timeout(2 * GIVE_UP_SECONDS):
            while await sentinel.master() != replica.port:
                await asyncio.sleep(0.02)
        healed = time.monotonic()
        await asyncio.sleep(0.5)
    await stage.caught_up(sends[0], 5, since=healed)

    stage.verdict(gaps=None)
