"""The floor of publish.lua: whenever a Redis can have lost acknowledged events, each reader gets one gap notice.

A restart, a fail-over or a power failure can leave a server with less than was acknowledged. The script then raises the
floor: a cursor below it cannot be trusted to miss nothing.
"""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.core.page import Page
from gateway.store.client import redis_client
from gateway.store.log import Log, Publication
from tests.faults.scenario import GIVE_UP_SECONDS
from tests.faults.servers import RedisServer
from tests.faults.stage import Stage
from tests.support.programs import old_redis_program

EVENT = b'{"type":"progress"}'


async def publish(log: Log, channel: str = "a") -> int:
    (id,) = await log.append([Publication(channel, EVENT)])
    assert isinstance(id, str), id
    return int(id)


async def read(log: Log, cursor: int, channel: str = "a") -> list[int | None]:
    """What a reader at the cursor gets: ids of events, and ``None`` for a gap."""
    (page,) = await log.read([(channel, cursor, 100_000)])
    assert isinstance(page, Page)
    return [item[0] if item[1] is not None else None for item in page.items]


def log_at(stage: Stage, url: str) -> Log:
    client: Redis = redis_client(url)
    stage.stack.push_async_callback(client.aclose)
    return Log(client)


def log_of(stage: Stage, server: RedisServer) -> Log:
    return log_at(stage, server.url)


@pytest.mark.parametrize("kind", ["valkey", "redis 6.2"])
async def test_readers_get_a_gap_if_a_snapshot_lacks_the_newest_events(stage: Stage, kind: str) -> None:
    server = await stage.redis(program=None if kind == "valkey" else old_redis_program())
    log = log_of(stage, server)
    await log.open()
    first = await publish(log)
    await server.client.execute_command("SAVE")
    lost = await publish(log)

    server.kill()
    await server.start()
    last = await publish(log)  # before any gateway has reconnected

    assert await read(log, first) == [None, last]
    assert await read(log, lost) == [None, last]
    assert await read(log, last) == []


@pytest.mark.parametrize("kind", ["valkey", "redis 6.2"])
async def test_readers_get_no_gap_after_a_restart_with_an_append_only_file(stage: Stage, kind: str) -> None:
    # Not everysec, which acknowledges events before they are written and so may lose some.
    program = None if kind == "valkey" else old_redis_program()
    server = await stage.redis(aof=True, program=program, arguments=["--appendfsync", "always"])
    log = log_of(stage, server)
    await log.open()
    first, second = await publish(log), await publish(log)

    server.kill()
    await server.start()
    await log.open(second)
    third = await publish(log)

    assert await read(log, first) == [second, third]


@pytest.mark.parametrize("kind", ["valkey", "redis 6.2"])
async def test_readers_get_a_gap_if_a_master_is_promoted_again_without_its_newest_events(stage: Stage, kind: str) -> None:
    program = None if kind == "valkey" else old_redis_program()
    first_master = await stage.redis("first", aof=True, program=program)
    replication = await stage.proxy(first_master.port)
    second = await stage.redis("second", aof=True, program=program, arguments=["--replicaof", "127.0.0.1", str(replication.port)])
    log = log_of(stage, first_master)
    await log.open()
    seen = await publish(log)
    await second.replicating()
    replication.mode = "swallow"
    await publish(log)

    # The second takes over without that event, and nobody publishes on it before the first is master again.
    await second.client.execute_command("REPLICAOF", "NO", "ONE")
    await first_master.client.execute_command("REPLICAOF", "127.0.0.1", str(second.port))
    await first_master.replicating()
    await first_master.client.execute_command("REPLICAOF", "NO", "ONE")
    last = await publish(log)

    assert await read(log, seen) == [None, last]


async def test_readers_get_a_gap_if_a_master_is_promoted_again_without_what_another_recorded_meanwhile(stage: Stage) -> None:
    # Its data does not show that another server was master, as it has received none of that one's events; its replication id does.
    second = await stage.redis("second", aof=True)
    replication = await stage.proxy(second.port)
    first = await stage.redis("first", aof=True)
    log, other = log_of(stage, first), log_of(stage, second)
    await log.open()
    await second.client.execute_command("REPLICAOF", "127.0.0.1", str(first.port))
    seen = await publish(log)
    await second.replicating()

    await second.client.execute_command("REPLICAOF", "NO", "ONE")
    await first.client.execute_command("REPLICAOF", "127.0.0.1", str(replication.port))
    await first.replicating()
    replication.mode = "swallow"
    await other.open()
    lost = await publish(other)
    await asyncio.sleep(1)  # the script looks at the replication id once a second
    await first.client.execute_command("REPLICAOF", "NO", "ONE")
    last = await publish(log)

    assert await read(log, seen) == [None, last]
    assert await read(log, lost) == [None, last]


async def test_readers_get_a_gap_if_a_gateway_has_received_events_that_redis_no_longer_has(stage: Stage) -> None:
    server = await stage.redis(aof=True)
    log = log_of(stage, server)
    await log.open()
    first = await publish(log)
    heard = first + 5_000_000  # newer than anything Redis has, as after a power failure

    await log.open(heard)
    last = await publish(log)

    assert last > heard
    assert await read(log, first) == [None, last]
    assert await read(log, heard) == [None, last]


async def test_readers_get_one_gap_after_two_masters_have_recorded_events(stage: Stage) -> None:
    old = await stage.redis("old", aof=True)
    new = await stage.redis("new", aof=True, arguments=["--replicaof", "127.0.0.1", str(old.port)])
    way = await stage.proxy(old.port)
    slow, quick = log_at(stage, f"redis://127.0.0.1:{way.port}"), log_of(stage, new)
    source = await slow.open()
    first = await publish(slow)
    await new.replicating()

    await new.client.execute_command("REPLICAOF", "NO", "ONE")
    await quick.open(first)
    second = await publish(quick)
    lost = await publish(slow)
    third = await publish(quick)
    await quick.open(third)  # by one that does not know from which of the two it heard that id
    way.target = new.port
    way.reset()
    await slow.open(first, source)
    untold = await read(quick, third)
    announced = new.client.pubsub()
    await announced.subscribe("notify:!floor")
    await announced.get_message(timeout=GIVE_UP_SECONDS)
    holder = await slow.open(lost, source)
    told = await announced.get_message(timeout=GIVE_UP_SECONDS)
    await slow.open(await publish(quick), holder)
    await announced.aclose()

    # A reader of either master has missed what the other recorded in between.
    assert second < lost < third
    assert untold == []
    assert told is not None
    assert [(await read(quick, cursor)).count(None) for cursor in (lost, third)] == [1, 1]


async def test_readers_get_no_gap_after_the_function_library_was_loaded_again(stage: Stage) -> None:
    server = await stage.redis()
    log = log_of(stage, server)
    await log.open()
    first = await publish(log)

    await server.client.execute_command("FUNCTION", "FLUSH")
    replica = await stage.redis("replica", arguments=["--replicaof", "127.0.0.1", str(server.port)])  # gives it a new replication id
    await replica.replicating()
    await log.open(first)
    second = await publish(log)

    assert await read(log, first) == [second]
