"""The checks of a Redis: settings and rights without which the gateway cannot keep its guarantees."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from gateway.embedded import embedded_server, free_port
from gateway.store.checks import redis_problems, server_problems
from tests.support.programs import old_redis_program


async def test_a_redis_with_an_append_only_file_has_no_problem() -> None:
    with embedded_server("--appendonly", "yes", "--maxmemory", "50mb") as url:
        assert await redis_problems(url, "notify", 65_536) == []


async def test_a_policy_of_eviction_is_no_problem_where_memory_has_no_bound() -> None:
    with embedded_server("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru") as url:
        async with Redis.from_url(url) as client:
            assert await server_problems(client, "notify") == []


async def test_a_redis_without_functions_is_named() -> None:
    with embedded_server("--appendonly", "yes", program=old_redis_program()) as url:
        async with Redis.from_url(url) as client:
            [line] = await server_problems(client, "notify")

    assert line.startswith("Redis 6.")
    assert "too old for functions" in line


async def test_each_problem_has_a_line() -> None:
    with embedded_server("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as url:
        async with Redis.from_url(url) as client:
            lines = await server_problems(client, "notify")

    assert [words in line for line, words in zip(lines, ("maxmemory-policy allkeys-lru", "appendonly no"), strict=True)] == [True, True]


async def test_a_replica_is_named(redis_url: str) -> None:
    with embedded_server("--appendonly", "yes", "--replicaof", f"127.0.0.1 {redis_url.rpartition(':')[2]}") as url:
        async with Redis.from_url(url) as client:
            lines = await server_problems(client, "notify")

    assert len(lines) == 1
    assert "replica" in lines[0]


async def test_a_redis_that_is_away_is_one_problem() -> None:
    lines = await redis_problems("redis://127.0.0.1:1", "notify", 65_536)

    assert len(lines) == 1
    assert "does not answer" in lines[0]


async def test_a_redis_that_refuses_is_told_apart_from_one_that_does_not_answer(redis_url: str) -> None:
    lines = await redis_problems(f"{redis_url}/4000", "notify", 65_536)

    assert lines == ["GATEWAY_REDIS_URL: Redis refuses: DB index is out of range"]


async def test_a_node_of_a_cluster_is_named() -> None:
    # A port that is free: the default one for the cluster bus may be in use.
    with embedded_server("--appendonly", "yes", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as url:
        lines = await redis_problems(url, "notify", 65_536)

    assert len(lines) == 1
    assert "a node of a Redis Cluster" in lines[0]


async def test_another_database_with_the_same_prefix_is_named(redis_url: str) -> None:
    async with Redis.from_url(f"{redis_url}/3") as other:
        await other.set("notify:clock", 1)
        await other.set("notify:log:{jobs:1}", 1)
    lines = await redis_problems(redis_url, "notify", 65_536)
    elsewhere = [await redis_problems(f"{redis_url}/3", "notify", 65_536), await redis_problems(redis_url, "staging", 65_536)]

    assert [line for line in lines if "database" in line] == [
        "Redis database 3: used with the prefix notify too, and pub/sub knows no databases: another GATEWAY_PREFIX is expected"
    ]
    assert [[line[:17] for line in lines if "database" in line] for lines in elsewhere] == [["Redis database 0:"], []]


@pytest.mark.parametrize(("missing", "named"), [("&notify:*", "PUBLISH on notify:!check"), ("+@pubsub", "SUBSCRIBE to notify:!check")])
async def test_a_right_that_is_missing_is_named(redis_url: str, missing: str, named: str) -> None:
    rights = ["+@read", "+@write", "+@scripting", "+@pubsub", "+@transaction", "+info", "+time", "+ping", "~*", "&notify:*"]
    rights.remove(missing)
    async with Redis.from_url(redis_url) as client:
        await client.execute_command("ACL", "SETUSER", "gateway", "on", ">secret", *rights)
    lines = await redis_problems(redis_url.replace("://", "://gateway:secret@"), "notify", 65_536)

    assert any(line.startswith(f"Redis: {named} is refused: ") for line in lines)


async def test_a_redis_that_takes_no_writes_is_named(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        await redis_problems(redis_url, "notify", 65_536)  # brings the functions
        await client.config_set("min-replicas-to-write", 1)
        lines = await redis_problems(redis_url, "notify", 65_536)

    assert [line for line in lines if "refused" in line] == ["Redis: a write is refused: NOREPLICAS Not enough good replicas to write."]
