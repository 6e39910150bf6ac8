"""All faults mixed at random, repeatable by the seed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.conftest import option
from tests.faults.proxy import Proxy
from tests.faults.scenario import channel_names, two_of
from tests.faults.servers import Gateway, RedisServer
from tests.faults.stage import EVERY_TRANSPORT, Stage, address, open_stage

Fault = Callable[[], Awaitable[None]]


class Trouble:
    """The faults that are mixed; each is over when its method returns."""

    def __init__(self, stage: Stage, redis: RedisServer, way: Proxy, *, lossy: bool) -> None:
        self._stage = stage
        self._rng = stage.rng
        self._redis = redis
        self._way = way
        self._redis_busy = asyncio.Lock()  # one fault of Redis at a time: it cannot be killed while it hangs
        self._gateway_busy = asyncio.Lock()  # one fault of a gateway at a time: the other one serves meanwhile
        self.done: list[str] = []
        self.kinds: list[Fault] = [
            self.redis_killed if lossy else self.redis_restarted,
            self.redis_hangs,
            self.memory_is_full,
            self.pubsub_is_killed,
            self.connections_are_reset,
            self.connections_swallow,
            self.connections_are_slow,
            self.gateway_is_killed,
            self.gateway_restarts,
            self.gateway_stalls,
            self.clients_drop,
            self.clients_are_away,
            self.poison_is_published,
        ]
        if not lossy:
            self.kinds.append(self.clock_goes_back)

    async def one(self) -> None:
        """Cause a fault drawn at random."""
        fault = self._rng.choice(self.kinds)
        self.done.append(fault.__name__)
        await fault()

    def _some(self) -> float:
        return self._rng.uniform(0.1, 3.5)

    def _a_gateway(self) -> Gateway:
        return self._rng.choice(self._stage.gateways)

    async def redis_restarted(self) -> None:
        async with self._redis_busy:
            await self._redis.stop()
            await asyncio.sleep(self._some() / 3)
            await self._redis.start()

    async def redis_killed(self) -> None:
        async with self._redis_busy:
            self._redis.kill()
            self._stage.ledger.may_lose()
            await asyncio.sleep(self._rng.choice([0, self._some() / 3]))
            await self._redis.start()

    async def redis_hangs(self) -> None:
        async with self._redis_busy:
            self._redis.hang()
            await asyncio.sleep(self._some())
            self._redis.go_on()

    async def memory_is_full(self) -> None:
        async with self._redis_busy:
            await self._redis.client.config_set("maxmemory", "1mb")
            await asyncio.sleep(self._some() / 4)
            await self._redis.client.config_set("maxmemory", "0")

    async def pubsub_is_killed(self) -> None:
        for _ in range(self._rng.randint(1, 5)):
            async with self._redis_busy:
                await self._redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.2)

    async def connections_are_reset(self) -> None:
        self._way.reset()

    async def connections_swallow(self) -> None:
        self._way.mode = "swallow"
        await asyncio.sleep(self._some())
        self._way.mode = "pass"

    async def connections_are_slow(self) -> None:
        self._way.latency = self._rng.uniform(0.01, 0.2)
        await asyncio.sleep(self._some() / 2)
        self._way.latency = 0.0

    async def gateway_is_killed(self) -> None:
        async with self._gateway_busy:
            gateway = self._a_gateway()
            gateway.kill()
            await asyncio.sleep(self._some() / 3)
            await gateway.start(wait=False)

    async def gateway_restarts(self) -> None:
        async with self._gateway_busy:
            gateway = self._a_gateway()
            self._stage.addresses.remove(address(gateway))
            await gateway.stop()
            await gateway.start(wait=False)
            self._stage.addresses.append(address(gateway))

    async def gateway_stalls(self) -> None:
        async with self._gateway_busy:
            gateway = self._a_gateway()
            gateway.hang()
            await asyncio.sleep(self._some())
            gateway.go_on()

    async def clients_drop(self) -> None:
        for follower in self._rng.sample(self._stage.followers, len(self._stage.followers) // 3):
            follower.drop()

    async def clients_are_away(self) -> None:
        away = self._rng.sample(self._stage.followers, len(self._stage.followers) // 3)
        for follower in away:
            follower.go_away()
        await asyncio.sleep(self._some() / 2)
        for follower in away:
            follower.come_back()

    async def poison_is_published(self) -> None:
        async with self._redis_busy:
            await self._redis.client.publish("notify:jobs:1", self._rng.choice([b"\xff", b"{", b"", b"1 1\n{"]))
            await self._redis.client.rpush("notify:log:{jobs:1}", self._rng.choice([b"\xff", b"{", b"", b"1 1\n{"]))

    async def clock_goes_back(self) -> None:
        async with self._redis_busy:
            newest = int(await self._redis.client.get("notify:clock") or 0)
            await self._redis.client.set("notify:clock", str(newest + 60_000_000))


async def play(stage: Stage, seconds: float) -> str:
    """Play one round; a line that sums it up."""
    lossy = stage.rng.random() < 0.3
    redis = await stage.redis(aof=not lossy)
    way = await stage.proxy(redis.port)
    url = f"redis://127.0.0.1:{way.port}"
    for _ in range(2):
        await stage.gateway(url, drain_seconds="0.5")
    channels = channel_names(8)
    stage.follow(stage.size(40, 300), two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    direct = stage.function(redis.url)
    sends = [direct, stage.function(url), stage.http(), stage.library(url)]
    trouble = Trouble(stage, redis, way, lossy=lossy)

    try:
        async with stage.load(sends, channels, stage.size(80, 300), labels=0.2, retry=0 if lossy else 30, keep=10_000):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.gather(*(trouble.one() for _ in range(stage.rng.choice([1, 1, 2]))))
                await asyncio.sleep(stage.rng.uniform(0, 0.7))
            for gateway in stage.gateways:
                await gateway.ready()
            healed = time.monotonic()
            await asyncio.sleep(0.3)
        await stage.caught_up(direct, 10, since=healed)
        stage.verdict(gaps=None if lossy else 0)
    except Exception as error:
        error.add_note(f"seed of this round: {stage.seed}; it was {'lossy' if lossy else 'safe'}: {', '.join(trouble.done)}")
        for gateway in stage.gateways:
            output = gateway.output()
            error.add_note(f"log of {gateway.name}, its end:\n{output[-4000:]}")
            if (first := output.find("Traceback")) >= 0:
                error.add_note(f"log of {gateway.name}, its first traceback:\n{output[max(0, first - 1000) : first + 6000]}")
        raise
    return f"seed {stage.seed} {'lossy' if lossy else 'safe'}, {len(trouble.done)} faults: {stage.figures['oracle']}"


async def test_20_all_faults_mixed(stage: Stage, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    minutes = option(request.config, "minutes", None)
    until = time.monotonic() + 60 * (minutes or 0)
    rounds = 0
    while rounds == 0 or time.monotonic() < until:
        folder = tmp_path / str(rounds)
        folder.mkdir()
        async with open_stage(folder, stage.seed + rounds, full=stage.full) as round_stage:
            said = await play(round_stage, stage.size(4, 40))
        stage.figures[f"round {rounds + 1}"] = said
        rounds += 1
