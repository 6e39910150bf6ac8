"""RevocationStore: revocations are stored, announced, and bounded."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.core.revocations import KEEP_SECONDS, Revocation
from gateway.errors import Unavailable
from gateway.store import revocations as module
from gateway.store.client import redis_client
from gateway.store.revocations import RevocationStore, parse_revocation


async def kept(store: RevocationStore, since: float = 0) -> list[Revocation]:
    return [revocation async for revocation in store.read(since)]


async def test_a_revocation_is_stored_and_announced(shared_redis: Redis) -> None:
    store = RevocationStore(shared_redis, "a")
    async with shared_redis.pubsub() as hearing:
        await hearing.subscribe("a:!revoked")
        await hearing.get_message(timeout=30)
        before = time.time()

        told = await store.revoke(sub="ann")

        message = await hearing.get_message(timeout=30)
    assert message is not None
    assert parse_revocation(message["data"]) == told
    assert told.sub == "ann"
    assert before <= told.at <= time.time()
    assert await kept(store) == [told]


async def test_a_subject_that_is_revoked_again_is_kept_once_with_the_newest_time(shared_redis: Redis) -> None:
    store = RevocationStore(shared_redis, "b")
    await store.revoke(sub="ann")
    last = await store.revoke(sub="ann")
    other = await store.revoke(jti="t1")

    assert await kept(store) == [other, last]
    assert await kept(store, since=other.at) == [other]


async def test_a_gateway_whose_clock_is_behind_takes_nothing_back(shared_redis: Redis) -> None:
    store = RevocationStore(shared_redis, "g")
    ahead = (await store.revoke(sub="ann")).at + 60
    members: Any = await shared_redis.zrange("g:revoked", 0, -1)
    await shared_redis.zadd("g:revoked", dict.fromkeys(members, ahead))

    await store.revoke(sub="ann")

    assert [revocation.at for revocation in await kept(store)] == [ahead]


async def test_more_than_one_page_is_read(shared_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    store = RevocationStore(shared_redis, "c")
    await shared_redis.zadd("c:revoked", {msgspec.json.encode({"sub": f"s{i}"}): i for i in range(25)})
    await shared_redis.zadd("c:revoked", {b"junk": 5})

    assert [revocation.sub for revocation in await kept(store)] == [f"s{i}" for i in reversed(range(25))]


async def test_none_is_left_out_if_others_are_revoked_again_while_they_are_read(
    shared_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    store = RevocationStore(shared_redis, "e")
    await shared_redis.zadd("e:revoked", {msgspec.json.encode({"sub": f"s{i}"}): time.time() - 100 + i for i in range(25)})
    subjects = set()

    async for revocation in store.read(0):
        subjects.add(revocation.sub)
        if len(subjects) == 1:
            await store.revoke(sub="s3")
            await store.revoke(sub="s20")

    assert subjects >= {f"s{i}" for i in range(25)} - {"s3", "s20"}  # these two were announced


async def test_none_is_left_out_if_older_ones_go_while_they_are_read(shared_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 10)
    store = RevocationStore(shared_redis, "f")
    old = time.time() - KEEP_SECONDS - 100
    await shared_redis.zadd("f:revoked", {msgspec.json.encode({"sub": f"old{i}"}): old + i for i in range(5)})
    await shared_redis.zadd("f:revoked", {msgspec.json.encode({"sub": f"s{i}"}): time.time() - 100 + i for i in range(25)})
    subjects = set()

    async for revocation in store.read(0):
        subjects.add(revocation.sub)
        if len(subjects) == 1:
            await store.revoke(sub="new")

    assert subjects >= {f"s{i}" for i in range(25)}


async def test_the_number_of_revocations_is_bounded_and_the_oldest_go(shared_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REVOCATIONS", 2)
    store = RevocationStore(shared_redis, "d")
    await store.revoke(sub="a")
    await store.revoke(sub="b")

    with pytest.raises(Unavailable, match="2 revocations are kept"):
        await store.revoke(sub="c")
    await store.revoke(sub="b")  # no more room is needed
    await shared_redis.zadd("d:revoked", {msgspec.json.encode({"sub": "a"}): time.time() - KEEP_SECONDS - 1})
    await store.revoke(sub="c")

    assert [revocation.sub for revocation in await kept(store)] == ["c", "b"]


async def test_without_redis_nothing_is_revoked() -> None:
    with pytest.raises(Unavailable):
        await RevocationStore(redis_client("redis://127.0.0.1:1")).revoke(sub="ann")
