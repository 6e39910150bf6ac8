"""The floor of publish.lua: every way in which a server can come to hold less than was acknowledged, told to each reader once."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.core.page import Page
from gateway.store.connect import redis_client
from gateway.store.log import Log, Publication
from tests.faults.servers import RedisServer
from tests.faults.stage import Stage
from tests.faults.test_redis import LATE, in_step
from tests.support.programs import old_redis_program

EVENT = b'{"type":"progress"}'


async def publish(log: Log, channel: str = "a") -> int:
    (id,) = await log.append([Publication(channel, EVENT)])
    assert isinstance(id, str), id
    return int(id)


async def read(log: Log, cursor: int, channel: str = "a") -> list[int | None]:
    """The ids that a reader at the cursor is given; ``None`` is a gap."""
    (page,) = await log.read([(channel, cursor, 100_000)])
    assert isinstance(page, Page)
    return [item[0] if item[1] is not None else None for item in page.items]


def log_at(stage: Stage, url: str) -> Log:
    client: Redis = redis_client(url)
    stage._stack.push_async_callback(client.aclose)
    return Log(client)


def log_of(stage: Stage, server: RedisServer) -> Log:
    return log_at(stage, server.url)


@pytest.mark.parametrize("kind", ["valkey", "redis 6.2"])
async def test_a_snapshot_without_the_newest_events_is_told(stage: Stage, kind: str) -> None:
    server = await stage.redis(program=None if kind == "valkey" else old_redis_program())
    log = log_of(stage, server)
    await log.open()
    first = await publish(log)
    await server.client.execute_command("SAVE")
    lost = await publish(log)

    server.kill()
    await server.start()
    last = await publish(log)  # before any gateway is there

    assert await read(log, first) == [None, last]
    assert await read(log, lost) == [None, last]
    assert await read(log, last) == []


@pytest.mark.parametrize("kind", ["valkey", "redis 6.2"])
async def test_a_restart_with_an_append_only_file_loses_nothing_and_says_nothing(stage: Stage, kind: str) -> None:
    # Not everysec: while the disk is busy with one second's data, the next is acknowledged before it is written.
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
async def test_a_master_that_lost_its_newest_events_and_is_promoted_again_tells(stage: Stage, kind: str) -> None:
    program = None if kind == "valkey" else old_redis_program()
    first_master = await stage.redis("first", aof=True, program=program)
    way = await stage.proxy(first_master.port)
    second = await stage.redis("second", aof=True, program=program, arguments=["--replicaof", "127.0.0.1", str(way.port)])
    log = log_of(stage, first_master)
    await log.open()
    seen = await publish(log)
    await in_step(second)
    way.mode = "swallow"
    await publish(log)

    # The second takes over without it, and nobody writes there before the first is master again.
    await second.client.execute_command("REPLICAOF", "NO", "ONE")
    await first_master.client.execute_command("REPLICAOF", "127.0.0.1", str(second.port))
    await in_step(first_master)
    await first_master.client.execute_command("REPLICAOF", "NO", "ONE")
    last = await publish(log)

    assert await read(log, seen) == [None, last]


async def test_a_master_that_comes_back_to_where_it_stood_tells(stage: Stage) -> None:
    # Nothing in its data says that another server wrote in between: it has received none of it. Its name does.
    second = await stage.redis("second", aof=True)
    way = await stage.proxy(second.port)
    first = await stage.redis("first", aof=True)
    log, other = log_of(stage, first), log_of(stage, second)
    await log.open()
    await second.client.execute_command("REPLICAOF", "127.0.0.1", str(first.port))
    seen = await publish(log)
    await in_step(second)

    await second.client.execute_command("REPLICAOF", "NO", "ONE")
    await first.client.execute_command("REPLICAOF", "127.0.0.1", str(way.port))
    await in_step(first)
    way.mode = "swallow"
    await other.open()
    lost = await publish(other)
    await asyncio.sleep(1)  # it asks once in a second who it is
    await first.client.execute_command("REPLICAOF", "NO", "ONE")
    last = await publish(log)

    assert await read(log, seen) == [None, last]
    assert await read(log, lost) == [None, last]


async def test_what_a_gateway_has_heard_of_and_the_server_has_not_is_lost(stage: Stage) -> None:
    server = await stage.redis(aof=True)
    log = log_of(stage, server)
    await log.open()
    first = await publish(log)
    heard = first + 5_000_000  # as after a power failure: the file lacks the last second

    await log.open(heard)
    last = await publish(log)

    assert last > heard
    assert await read(log, first) == [None, last]
    assert await read(log, heard) == [None, last]


async def test_what_was_heard_from_a_second_master_is_lost(stage: Stage) -> None:
    old = await stage.redis("old", aof=True)
    new = await stage.redis("new", aof=True, arguments=["--replicaof", "127.0.0.1", str(old.port)])
    way = await stage.proxy(old.port)
    slow, quick = log_at(stage, f"redis://127.0.0.1:{way.port}"), log_of(stage, new)
    source = await slow.open()
    first = await publish(slow)
    await in_step(new)

    await new.client.execute_command("REPLICAOF", "NO", "ONE")
    await quick.open(first)
    second = await publish(quick)
    lost = await publish(slow)
    third = await publish(quick)
    way.target = new.port
    way.reset()
    await slow.open(first, source)
    untold = await read(quick, third)
    announced = new.client.pubsub()
    await announced.subscribe("notify:!floor")
    await announced.get_message(timeout=LATE)
    holder = await slow.open(lost, source)
    told = await announced.get_message(timeout=LATE)
    await slow.open(await publish(quick), holder)
    await announced.aclose()

    # Each has passed by what the other took, so it is told where they are now.
    assert second < lost < third
    assert untold == []
    assert told is not None
    assert [(await read(quick, cursor)).count(None) for cursor in (lost, third)] == [1, 1]


async def test_a_new_library_on_the_same_server_tells_nobody_of_a_gap(stage: Stage) -> None:
    server = await stage.redis()
    log = log_of(stage, server)
    await log.open()
    first = await publish(log)

    await server.client.execute_command("FUNCTION", "FLUSH")
    replica = await stage.redis("replica", arguments=["--replicaof", "127.0.0.1", str(server.port)])  # renames its history
    await in_step(replica)
    await log.open(first)
    second = await publish(log)

    assert await read(log, first) == [second]
