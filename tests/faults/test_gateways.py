"""Gateways and their clients fail: processes die and stall, readers are slow, all clients reconnect at once."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.clients import Follower
from tests.faults.scenario import channel_names, moments, peak, two_of
from tests.faults.servers import Gateway
from tests.faults.stage import EVERY_TRANSPORT, Send, Stage, address
from tests.support.slowness import slowness


async def test_09_a_gateway_is_killed_and_another_one_serves(stage: Stage) -> None:
    redis = await stage.redis()
    first = await stage.gateway(redis.url)
    second = await stage.gateway(redis.url, serving=False)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(100, 2_000), two_of(channels), EVERY_TRANSPORT if not stage.full else ("ws", "ws", "ws", "sse"))
    await stage.all_ready()
    stage.addresses.append(address(second))
    send = stage.function(redis.url)

    async with stage.load([send], channels, 100, labels=0.2, keep=10_000):
        await asyncio.sleep(stage.rng.uniform(0.5, 1.5))
        first.kill()
        killed = time.monotonic()
        stage.addresses.remove(address(first))
        await asyncio.sleep(1)
    await stage.caught_up(send, 10, since=killed)

    stage.verdict()


async def test_10_three_gateways_are_restarted_one_by_one_under_load(stage: Stage) -> None:
    redis = await stage.redis()
    drain = stage.size(1, 5)
    for _ in range(3):
        await stage.gateway(redis.url, drain_seconds=str(drain))
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(90, 600), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    sends = [stage.function(redis.url), stage.http()]

    spreads, begins = [], []
    async with stage.load(sends, channels, stage.size(50, 200), labels=0.2, retry=10, keep=10_000):
        for gateway in list(stage.gateways):
            # As with a load balancer: first it sends no new connections there, then the gateway gets the signal.
            stage.addresses.remove(address(gateway))
            await asyncio.sleep(0.5 * slowness())  # until those on their way there have arrived
            began = time.monotonic()
            begins.append(began)
            status = await gateway.stop()
            assert status == 0, gateway.output()[-2000:]
            closed = [line.time for f in stage.followers for line in f.log.lines if line.kind == "end" and line.time >= began]
            spreads.append(statistics.pstdev(closed) / drain)
            await gateway.start()
            stage.addresses.append(address(gateway))
    await stage.caught_up(sends[0], 5)

    ends = {line.text for f in stage.followers for line in f.log.lines if line.kind == "end"}
    assert not {text for text in ends if "503" in text or "Refused" in text}
    assert min(spreads) > stage.size(5, 15) / 100  # evenly spread is 0.29, all at once is 0
    reconnects = moments(stage.followers, "open", "", begins[0])
    stage.figure("most reconnects in a second", max(peak(reconnects, began, drain) for began in begins), 2, "times the mean")
    stage.verdict()


async def test_11_a_slow_reader_slows_no_other_and_gets_everything(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    others = stage.follow(stage.size(20, 200), lambda _: {"jobs:1": "0"})
    (slow,) = stage.follow(1, lambda _: {"jobs:1": "0"}, receive_buffer=4_096)
    await stage.all_ready()
    send = stage.function(redis.url)
    slow.rate = 1_000.0
    block = stage.size(20, 500)  # events of 8 kB: in full 20 MB with the slow reader, and more without it

    slow.go_away()
    cold = (await flood(stage, send, others, block, gateway)).memory
    warm = (await flood(stage, send, others, block, gateway)).memory
    without: list[Flood] = []
    with_slow: list[Flood] = []
    for _ in range(stage.size(2, 5)):  # in turns, so that other work on this machine disturbs both alike
        without.append(await flood(stage, send, others, block, gateway))
        slow.come_back()
        with_slow.append(await flood(stage, send, others, block, gateway))
        slow.go_away()
    grown = max(taken.memory for taken in with_slow) - warm
    stage.figures["gateway memory + without it"] = f"{(warm - cold) / 2**20:.2f} MiB"
    apart, together = (statistics.median(taken.p99 for taken in floods) for floods in (without, with_slow))
    worst = max(taken.p99 for taken in without)
    stage.figures["p99 of the others without it"] = f"{apart * 1e3:.2f} ms ({' '.join(f'{taken.p99 * 1e3:.1f}' for taken in without)})"
    stage.figures["p99 of the others with it"] = f"{together * 1e3:.2f} ms ({' '.join(f'{taken.p99 * 1e3:.1f}' for taken in with_slow)})"
    if stage.full:
        stage.figure("gateway memory +", grown / 2**20, 2, "MiB")
    has_read = sum(line.kind == "event" for line in slow.log.lines)
    slow.rate = None
    slow.come_back()
    await stage.caught_up(send, 20)

    assert has_read < block
    stage.verdict()
    if stage.full:
        # Floods without the slow reader differ too: only what exceeds that difference is its effect.
        stage.figure("p99 of the others with / without it", together / apart, max(1.1, worst / apart), "times")


@dataclass
class Flood:
    """Measurements during one flood of events.

    Attributes:
        p99: latency of the other clients, seconds
        memory: the gateway's highest resident memory, bytes
    """

    p99: float
    memory: int


async def flood(stage: Stage, send: Send, others: Sequence[Follower], count: int, gateway: Gateway) -> Flood:
    """Publish events of 8 kB, and measure meanwhile."""
    for follower in others:
        follower.latencies = []
    started, memory = time.monotonic(), gateway.memory()
    for i in range(count):
        while (early := started + i / 40 - time.monotonic()) > 0:
            await asyncio.sleep(min(early, 0.005))  # short sleeps, because a peak of memory may last only milliseconds
            memory = max(memory, gateway.memory())
        await stage.publish(send, "jobs:1", size=8_000, keep=10_000)
    await asyncio.sleep(0.3)
    latencies = sorted(taken for follower in others for _, taken in follower.latencies or [])
    for follower in others:
        follower.latencies = None
    return Flood(latencies[int(len(latencies) * 0.99)], max(memory, gateway.memory()))


async def test_11_a_reader_that_stops_is_cut(stage: Stage) -> None:
    redis = await stage.redis()
    hurry = "import gateway.transports.connections as c; c.STALLED_SECONDS, c.CHECK_SECONDS = 1.0, 0.2"
    gateway = await stage.gateway(redis.url, before="" if stage.full else hurry)
    stage.follow(20, lambda _: {"jobs:1": "0"})
    (stopped,) = stage.follow(1, lambda _: {"jobs:1": "0"}, receive_buffer=4_096)
    await stage.all_ready()
    send = stage.function(redis.url)
    assert stopped.protocol is not None
    assert stopped.protocol.transport is not None

    async with stage.load([send], ["jobs:1"], 200, size=8_000, keep=10_000):
        await asyncio.sleep(stage.size(0, 5))  # until memory has grown to what the load itself needs
        stopped.protocol.transport.pause_reading()
        stalled = time.monotonic()
        before = gateway.memory()
        async with asyncio.timeout(60):
            while "it took no bytes" not in gateway.output():  # asking for the metrics would change the memory measured here
                await asyncio.sleep(0.1)
        stage.figure("cut after", time.monotonic() - stalled, stage.size(8, 32))
        taken = (gateway.memory() - before) / 2**20
    stage.figure("gateway memory +", taken, stage.size(100, 1), "MiB")
    stopped.drop()
    await stage.caught_up(send, 20)

    assert await gateway.metric("gateway_stalled_total") == 1
    stage.verdict()


async def test_12_all_clients_come_back_at_once(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url, max_connections="20000")
    count, channels = stage.size(500, 10_000), channel_names(stage.size(20, 100))
    batch = 500
    for start in range(0, count, batch):
        stage.follow(min(batch, count - start), lambda i, start=start: {channels[(start + i) % len(channels)]: "0"})  # type: ignore[misc]
        await stage.all_ready(stage.followers[start:])
    send = stage.function(redis.url)
    for channel in channels:
        await stage.publish(send, channel)
    await stage.caught_up(send, 20)

    for follower in stage.followers:
        follower.go_away()
    for channel in channels:
        for _ in range(3):
            await stage.publish(send, channel)
    await asyncio.sleep(3.5)  # until the gateway has dropped its pages of these channels and has to read them again
    reads, ranges = await redis.calls("fcall_ro"), await redis.calls("lrange")
    back = time.monotonic()
    for follower in stage.followers:
        follower.come_back()
    newest = {p.channel: p.id for p in stage.ledger.publications}
    waiting = [(f, c) for f in stage.followers for c in f.log.channels]
    while waiting := [(f, c) for f, c in waiting if not f.has(c, newest[c])]:
        await asyncio.sleep(0.05)  # a long sleep, because the clients need the CPU of this process
        assert time.monotonic() - back < 60

    stage.figure("all caught up", time.monotonic() - back, 15)
    stage.figure("log reads", await redis.calls("fcall_ro") - reads, len(channels), "reads")
    stage.figures["lrange calls"] = str(await redis.calls("lrange") - ranges)
    stage.figures["clients"] = f"{count} on {len(channels)} channels"
    stage.verdict()


async def test_15_the_event_loop_is_stalled(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    channels = channel_names(stage.size(10, 50))
    stage.follow(stage.size(40, 500), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)
    stall = stage.size(2, 5)

    async with stage.load([send], channels, stage.size(100, 500), keep=10_000):
        await asyncio.sleep(0.5)
        gateway.hang()
        await asyncio.sleep(stall)
        gateway.go_on()
        went_on = time.monotonic()
        await asyncio.sleep(0.2)
    await stage.caught_up(send, 5, since=went_on)

    async with asyncio.timeout(20):
        while (stalled := await gateway.metric("gateway_loop_stalled_seconds_total")) < stall - 1.5:
            await asyncio.sleep(0.1)
    stage.figures["stall shown by the metric"] = f"{stalled:.1f} s"
    stage.verdict()


async def test_16_file_descriptors_are_used_up(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url, files=100)
    channels = channel_names(3)
    stage.follow(30, two_of(channels))
    await stage.all_ready()
    send = stage.function(redis.url)

    held = []
    for _ in range(150):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", gateway.port))
        held.append(sock)
    late = stage.follow(3, two_of(channels))
    await asyncio.sleep(0.5)
    busy = gateway.cpu_seconds()
    async with stage.load([send], channels, 50, keep=10_000):
        await asyncio.sleep(stage.size(2, 8))
    stage.figure("share of a core", (gateway.cpu_seconds() - busy) / stage.size(2, 8), 0.6, "")
    await stage.caught_up(send, 5, followers=stage.followers[:30])
    reconnects = sum(f.reconnects for f in stage.followers[:30])
    for sock in held:
        sock.close()
    await stage.all_ready(late)
    await stage.caught_up(send, 5)

    assert reconnects == 0
    stage.verdict()
