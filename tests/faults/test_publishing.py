"""Publishing goes wrong: retries race, answers are lost, logs hold garbage, events come in bursts, clients subscribe and unsubscribe."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
import msgspec

from gateway.errors import Unavailable
from gateway.store.client import redis_client
from gateway.store.log import Log
from gateway.store.log import Publication as Words
from tests.faults.clients import Follower, _WebSocket
from tests.faults.scenario import channel_names, two_of
from tests.faults.stage import EVERY_TRANSPORT, Stage


async def test_13_a_hundred_racing_retries_through_two_gateways(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url)
    await stage.gateway(redis.url)
    stage.follow(12, lambda _: {"jobs:1": "0"}, EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    for attempt in range(stage.size(3, 20)):
        publication = stage.ledger.begin("jobs:1")
        body = {"channel": "jobs:1", "data": {"n": publication.number}, "key": f"race {attempt}"}
        async with httpx.AsyncClient(timeout=20) as client:
            answers = await asyncio.gather(*(client.post(f"http://{stage.addresses[i % 2]}/publish", json=body) for i in range(100)))
        (id,) = {answer.json()["ids"]["jobs:1"] for answer in answers}
        publication.acknowledge(int(id))
    await stage.caught_up(send, 5)

    stage.verdict()


async def test_14_the_answer_to_a_publish_is_lost(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    stage.follow(12, lambda _: {"jobs:1": "0"}, EVERY_TRANSPORT)
    await stage.all_ready()
    to_gateway, to_redis = await stage.proxy(gateway.port), await stage.proxy(redis.port)
    url = f"redis://127.0.0.1:{to_redis.port}"
    ways = [stage.http([f"127.0.0.1:{to_gateway.port}"]), stage.function(url), stage.library(url)]

    for _ in range(stage.size(10, 100)):
        for send in ways:
            retried = asyncio.ensure_future(stage.publish(send, "jobs:1", retry=20))
            to_gateway.cut_after = to_redis.cut_after = stage.rng.choice([0, 1, 5, 40])
            await asyncio.sleep(stage.rng.uniform(0.01, 0.06))
            to_gateway.cut_after = to_redis.cut_after = None
            await retried
    await stage.caught_up(stage.function(redis.url), 5)

    assert stage.ledger.count("acknowledged") == len(stage.ledger.publications)
    stage.verdict()


async def test_17_poison_in_the_log_and_on_pubsub(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    stage.follow(12, lambda _: {"jobs:1": "0"}, EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)
    poison = [
        b"", b"\0", b"not JSON", b"\xff\xfe\xfd", b"{" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'"' + b"x" * 5_000_000 + b'"',
        b"99999999999999999999999999 0 \n{}", b"5 0\n\xff", b'{"type":"\\ud800"}', b"NaN", b"-1 0 \n1",
        b'{"type":"x","data":1,"channel":"other","id":"1"}', b" ", b"\n",
    ]  # fmt: skip

    for piece in stage.rng.sample(poison, len(poison)):
        await redis.client.rpush("notify:log:{jobs:1}", piece)
        await redis.client.lpush("notify:log:{jobs:1}", piece)
        if not piece.startswith(b'{"type":"x"'):  # on pub/sub that is a valid live-only event
            await redis.client.publish("notify:jobs:1", piece)
        published = await stage.publish(send, "jobs:1")
        await redis.client.rpush("notify:log:{jobs:1}", b"%d %d \n{not JSON" % (published.id + 1, published.id))
        for follower in stage.rng.sample(stage.followers, 4):
            follower.drop()
    await stage.caught_up(send, 5)

    assert await gateway.metric("gateway_events_in_total") > 0
    stage.verdict()


async def test_18_a_burst(stage: Stage) -> None:
    redis = await stage.redis()
    gateway = await stage.gateway(redis.url)
    channels = channel_names(4)
    stage.follow(stage.size(12, 40), lambda i: {channels[i % 4]: "0"}, EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)
    client = redis_client(redis.url)
    log = Log(client)
    before, most = gateway.memory(), 0

    for _ in range(stage.size(50, 500)):
        publications = [stage.ledger.begin(stage.rng.choice(channels)) for _ in range(200)]
        words = [Words(p.channel, msgspec.json.encode({"data": {"n": p.number}, "type": "x"}), keep=1_000) for p in publications]
        try:
            ids = await log.append(words)
        except Unavailable:
            continue  # this process was too slow to read the reply, so the outcome is unknown
        for publication, id in zip(publications, ids, strict=True):
            assert isinstance(id, str)
            publication.acknowledge(int(id))
        most = max(most, gateway.memory() - before)
    await client.aclose()
    await stage.caught_up(send, 30)

    stage.figure("gateway memory +", most / 2**20, 100, "MiB")
    assert stage.ledger.count("acknowledged") > stage.size(9_000, 90_000)
    stage.verdict(gaps=None)


class Changing(Follower):
    """A client that subscribes and unsubscribes all the time, and keeps its cursors."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.answers: dict[str, asyncio.Future[None]] = {}

    def take(self, json: bytes) -> None:
        super().take(json)
        if json.startswith(b'{"op":"ready"'):
            answered = self.answers.pop(str(msgspec.json.decode(json).get("ref")), None)
            if answered is not None and not answered.done():
                answered.set_result(None)

    async def ask(self, protocol: _WebSocket, op: str, channels: object) -> bool:
        """Send a command and wait for its answer; false if the connection was lost first."""
        ref = str(len(self.log.lines)) + op
        self.answers[ref] = answered = asyncio.get_running_loop().create_future()
        protocol.send(msgspec.json.encode({"op": op, "channels": channels, "ref": ref}))
        await asyncio.wait([answered, protocol.over], return_when=asyncio.FIRST_COMPLETED)
        return answered.done() and not protocol.over.done()

    async def change(self, rng: random.Random, until: float) -> None:
        """Unsubscribe from channels and subscribe again, over and over, with the cursor after the last event that arrived."""
        while time.monotonic() < until:
            await asyncio.sleep(rng.choice([0, 0.002, 0.05]) + 0.05)
            protocol = self.protocol
            if not isinstance(protocol, _WebSocket) or not self.connected or protocol.over.done():
                continue
            channel = rng.choice(sorted(self.log.channels))
            if await self.ask(protocol, "unsubscribe", [channel]):
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.02]))
                if not protocol.over.done():
                    await self.ask(protocol, "subscribe", {channel: self.cursors[channel]})
            if rng.random() < 0.05:
                self.drop()


async def test_19_events_come_while_clients_subscribe_unsubscribe_and_reconnect(stage: Stage) -> None:
    redis = await stage.redis()
    await stage.gateway(redis.url)
    channels = channel_names(4)
    everything = dict.fromkeys(channels, "0")
    changing = [Changing(f"changing-{i}", stage.addresses, everything, seed=stage.seed) for i in range(stage.size(15, 60))]
    for follower in changing:
        stage.start(follower)
    stage.follow(10, two_of(channels), EVERY_TRANSPORT)
    await stage.all_ready()
    send = stage.function(redis.url)

    until = time.monotonic() + stage.size(3, 20)
    async with stage.load([send], channels, stage.size(150, 400), keep=10_000):
        await asyncio.gather(*(follower.change(random.Random(f"{stage.seed} {follower.name}"), until) for follower in changing))
    await stage.caught_up(send, 5)

    stage.verdict()
