"""After faults the gateway's metrics agree with the ledger and with what the clients received."""

from __future__ import annotations

import asyncio

from tests.faults.scenario import channel_names, two_of
from tests.faults.stage import EVERY_TRANSPORT, Stage, address
from tests.support.figures import figures


async def test_the_metrics_count_as_many_events_as_the_ledger_and_the_clients(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    channels = channel_names(stage.size(4, 30))
    stage.follow(stage.size(24, 300), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    async with stage.load([send, stage.http()], channels, stage.size(60, 300), labels=0.2, retry=10, keep=10_000):
        await asyncio.sleep(0.3)
        gateway.hang()
        await asyncio.sleep(0.4)
        gateway.go_on()
        await redis.client.config_set("maxmemory", "1mb")
        await asyncio.sleep(0.3)
        await redis.client.config_set("maxmemory", "0")
        await asyncio.sleep(0.3)
    await stage.caught_up(send, 10)
    verdict = stage.verdict()
    shown = await figures(f"http://{address(gateway)}")

    # On a machine so busy that the gateway has given up its connection to Redis, it has read some events from the log instead.
    missed = stage.ledger.count("acknowledged") - shown["gateway_events_in_total{recorded}"]
    assert missed == 0 or (missed > 0 and shown["gateway_redis_connects_total"] > 1)
    assert shown["gateway_events_out_total"] == verdict.received
    assert shown["gateway_gaps_total"] == verdict.gaps == 0

    async with stage.load([send], channels, stage.size(60, 300), labels=0.2, retry=10, keep=10_000):
        for _ in range(3):
            await asyncio.sleep(0.2)
            await redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await stage.caught_up(send, 10)
    verdict = stage.verdict()
    shown = await figures(f"http://{address(gateway)}")

    assert shown["gateway_redis_connects_total"] >= 2
    assert shown["gateway_events_in_total{recorded}"] <= stage.ledger.count("acknowledged")  # it has read the others from the log
    assert shown["gateway_events_out_total"] == verdict.received
    stage.figures["events in, out"] = f"{shown['gateway_events_in_total{recorded}']:.0f}, {shown['gateway_events_out_total']:.0f}"
