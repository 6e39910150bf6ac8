"""Checks: whether a Redis can keep what the gateway promises."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.store.connect import redis_client
from gateway.store.library import OLDEST_WITH_FUNCTIONS
from gateway.store.log import Log


async def redis_problems(url: str, prefix: str, max_event_bytes: int) -> list[str]:
    """What is wrong with this Redis, a line each; empty if nothing is."""
    client = redis_client(url)
    try:
        await client.ping()
        problems = await promises(client)
        try:
            await Log(client, prefix, max_event_bytes).open()
        except RedisError as error:
            problems.append(f"Redis: the function {prefix}_publish cannot be loaded: {error}")
    except (RedisError, OSError) as error:
        return [f"GATEWAY_REDIS_URL: Redis does not answer: {error}"]
    else:
        return problems
    finally:
        await client.aclose()


async def promises(client: Redis) -> list[str]:
    """What this server cannot promise, a line each.

    Raises:
        RedisError, OSError: if it does not answer.
    """
    info: dict[str, Any] = await client.info()
    problems = []
    version = str(info.get("redis_version", "0"))
    if int(version.partition(".")[0]) < OLDEST_WITH_FUNCTIONS:
        problems.append(f"Redis {version}: too old for functions; publish with the client library, or take Redis 7 or Valkey")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory"):
        problems.append(f"Redis maxmemory-policy {policy}: whole logs vanish when memory is short; noeviction is expected")
    if not info.get("aof_enabled"):
        problems.append("Redis appendonly no: what was published since the last snapshot is lost with the server; yes is expected")
    if info.get("role") == "slave":
        problems.append("Redis role replica: nothing can be recorded there; the master's address is expected")
    return problems
