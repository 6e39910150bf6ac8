"""Access: connected clients lose it when their token expires or is revoked."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.core.grant import Grant, Patterns
from gateway.core.revocations import Revocation
from gateway.errors import GatewayError, Unauthorized, Unavailable
from gateway.feed import Feed
from gateway.store.client import redis_client
from gateway.store.revocations import RevocationStore
from gateway.transports import access as module
from gateway.transports.access import Access
from tests.support.slowness import slowness
from tests.support.waiting import until


def grant(sub: str = "ann", seconds: float = 60) -> Grant:
    return Grant(subject=sub, subscribe=Patterns(), expires=time.time() + seconds, issued=time.time())


class Reader:
    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.lost: asyncio.Future[GatewayError] = asyncio.get_running_loop().create_future()

    def on_access_lost(self, error: GatewayError) -> None:
        if not self.lost.done():
            self.lost.set_result(error)


@contextlib.asynccontextmanager
async def watching(redis_url: str, kind: type[RevocationStore] = RevocationStore) -> AsyncIterator[tuple[Access, RevocationStore]]:
    """Access, which begins its work with the first await, and the revocations that it reads."""
    client = redis_client(redis_url)
    feed, revoked = Feed(client), kind(client)
    access = Access(feed, revoked)
    tasks = [asyncio.ensure_future(work) for work in (feed.run(), access.run())]
    try:
        yield access, revoked
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await client.aclose()


@pytest.fixture
async def running(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Access, RevocationStore]]:
    monkeypatch.setattr(module, "CLEAN_SECONDS", 0.05)
    async with watching(redis_url) as running:
        yield running


async def test_access_ends_within_a_second_of_exp_and_not_before(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    reader, other = Reader(grant(seconds=0.3)), Reader(grant())
    access.admit(reader)
    access.admit(other)

    error = await asyncio.wait_for(reader.lost, 30)

    assert error.close_code == 4401
    assert 0 <= time.time() - reader.grant.expires < slowness()  # second
    assert not other.lost.done()


async def test_access_ends_soon_after_the_clock_was_set_forward(
    running: tuple[Access, RevocationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    access, _ = running
    reader = Reader(grant())
    access.admit(reader)
    await asyncio.sleep(0.01)  # it is waited for by now

    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: time.time() + 3_600))

    assert (await asyncio.wait_for(reader.lost, 30)).close_code == 4401


async def test_all_whose_grants_expire_together_lose_access_but_not_those_that_left(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    shared = grant(seconds=0.3)
    first, left, last = Reader(shared), Reader(shared), Reader(shared)
    for reader in (first, left, last):
        access.admit(reader)
    access.dismiss(left)

    for reader in (first, last):
        await asyncio.wait_for(reader.lost, 30)

    assert not left.lost.done()


async def test_another_grant_is_watched_over_in_its_turn(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    reader = Reader(grant())
    access.admit(reader)

    access.change(reader, grant(seconds=0.2))

    assert (await asyncio.wait_for(reader.lost, 30)).close_code == 4401


async def test_a_grant_that_expires_between_its_check_and_its_use_is_refused(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    await access.load()

    with pytest.raises(Unauthorized, match="expired"):
        access.check(grant(seconds=0))


async def test_another_grant_takes_the_place_of_the_first(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    refreshed, gone, last = Reader(grant(seconds=0.2)), Reader(grant(seconds=0.2)), Reader(grant(seconds=0.5))
    for reader in (refreshed, gone, last):
        access.admit(reader)
    access.change(refreshed, grant())
    access.dismiss(gone)

    await asyncio.wait_for(last.lost, 30)

    assert not refreshed.lost.done()
    assert not gone.lost.done()


async def test_nothing_is_kept_of_clients_that_left(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    readers = [Reader(grant(seconds=i)) for i in range(1, 1000)]
    for reader in readers:
        access.admit(reader)
    for reader in readers:
        access.dismiss(reader)

    assert not access._holders
    assert not access._expiring


async def test_clients_that_come_and_go_leave_nothing_to_search_through(running: tuple[Access, RevocationStore]) -> None:
    access, _ = running
    for seconds in range(1, 1000):
        reader = Reader(grant(seconds=seconds))
        access.admit(reader)
        assert access._holders[reader] in access._slots
        access.dismiss(reader)

    assert len(access._slots) < 100


async def test_a_client_admitted_while_its_token_is_revoked_is_cut(running: tuple[Access, RevocationStore]) -> None:
    access, revoked = running
    late = Reader(grant())
    await access.load()
    access.check(late.grant)
    witness = Reader(grant())
    access.admit(witness)
    await revoked.revoke(sub="ann")
    await asyncio.wait_for(witness.lost, 30)

    access.admit(late)

    assert late.lost.done()
    with pytest.raises(Unauthorized, match="revoked"):
        access.check(late.grant)


async def test_revocations_from_before_the_start_are_known_to_the_first_caller(redis_url: str) -> None:
    old = grant()
    async with redis_client(redis_url) as client:
        await RevocationStore(client).revoke(sub="ann")

    async with watching(redis_url) as (access, _):
        await access.load()
        with pytest.raises(Unauthorized):
            access.check(old)


async def test_what_was_revoked_while_redis_was_away_is_read_though_a_clock_was_slow(
    running: tuple[Access, RevocationStore], redis: Redis
) -> None:
    access, _ = running
    revoked = {"bob": time.time(), "ann": time.time() - 30}
    readers = {sub: Reader(Grant(subject=sub, subscribe=Patterns(), expires=math.inf, issued=at - 1)) for sub, at in revoked.items()}
    for reader in readers.values():
        access.admit(reader)
    await access.load()

    for sub, at in revoked.items():
        await redis.zadd("notify:revoked", {msgspec.json.encode(Revocation(sub=sub)): at})
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await asyncio.wait_for(readers[sub].lost, 30)).close_code == 4401


async def test_what_was_revoked_more_than_30_days_ago_is_forgotten(running: tuple[Access, RevocationStore], redis: Redis) -> None:
    access, _ = running
    await access.load()
    for sub, days in (("ann", 29), ("bob", 31)):
        await redis.zadd("notify:revoked", {msgspec.json.encode(Revocation(sub=sub)): time.time() - days * 86_400})
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    await until(lambda: len(access._revocations) == 1)
    with pytest.raises(Unauthorized, match="revoked"):
        access.check(Grant(subject="ann", subscribe=Patterns(), expires=math.inf, issued=0))


async def test_a_redis_that_fails_is_asked_a_few_times_a_second(redis_url: str) -> None:
    asked = 0

    class Failing(RevocationStore):
        def read(self, since: float) -> AsyncIterator[Revocation]:
            nonlocal asked
            asked += 1
            raise OSError

    async with watching(redis_url, Failing):
        await until(lambda: asked > 1)
        await asyncio.sleep(0.3)

    assert asked < 10


async def test_one_that_is_heard_before_the_stored_ones_could_be_read_hides_none_of_them(redis_url: str, redis: Redis) -> None:
    stored = time.time() - 600
    await redis.zadd("notify:revoked", {msgspec.json.encode(Revocation(sub="ann")): stored})
    witness = Reader(grant("bob"))

    class Failing(RevocationStore):
        failed = False

        async def read(self, since: float) -> AsyncIterator[Revocation]:
            if not self.failed:
                self.failed = True
                await self.revoke(sub="bob")
                await asyncio.wait_for(witness.lost, 30)
                raise OSError
            async for revocation in super().read(since):
                yield revocation

    async with watching(redis_url, Failing) as (access, _):
        access.admit(witness)
        await access.load()

        with pytest.raises(Unauthorized, match="revoked"):
            access.check(Grant(subject="ann", subscribe=Patterns(), expires=time.time() + 60, issued=stored - 1))


async def test_while_revocations_cannot_be_read_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.05)
    client = redis_client("redis://127.0.0.1:1")
    access = Access(Feed(client), RevocationStore(client))
    await access.load()

    with pytest.raises(Unavailable, match="what was revoked"):
        access.check(grant())
