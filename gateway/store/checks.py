"""Checks: whether a Redis can do what the gateway promises and needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from gateway.store.client import redis_client
from gateway.store.connection import ask, make_connection
from gateway.store.library import OLDEST_WITH_FUNCTIONS
from gateway.store.log import Log

NO_PERSISTENCE: Final = "Redis appendonly no: what was published since the last snapshot is lost with the server; yes is expected"
"""Not a mistake: to lose data is a choice, and every client is told of the gap."""

DATABASES: Final = 64  # how many are looked into; Redis has 16 by default


async def redis_problems(url: str, prefix: str, max_event_bytes: int) -> list[str]:
    """What is wrong with this Redis, a line each; empty if nothing is."""
    client = redis_client(url)
    try:
        problems = await server_problems(client, prefix)
        log = Log(client, prefix, max_event_bytes)
        try:
            await log.open()
        except RedisError as error:
            problems.append(f"Redis: the function {prefix}_publish cannot be loaded: {error}")
        else:
            problems += await _refusals(client, log, prefix)
    except (RedisError, OSError) as error:
        return [no_answer(error)]
    else:
        return problems
    finally:
        await client.aclose()


def no_answer(error: RedisError | OSError) -> str:
    """Why Redis could not be asked."""
    if isinstance(error, AuthenticationError):
        return f"GATEWAY_REDIS_URL: Redis wants another user or password: {error}"
    if isinstance(error, ResponseError):
        return f"GATEWAY_REDIS_URL: Redis refuses: {error}"
    return f"GATEWAY_REDIS_URL: Redis does not answer: {error}"


async def server_problems(client: Redis, prefix: str) -> list[str]:
    """Why this server cannot keep the gateway's promises, a line for each reason.

    Args:
        client: of the server
        prefix: as GATEWAY_PREFIX

    Raises:
        RedisError, OSError: if the server does not answer.
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
        problems.append(NO_PERSISTENCE)
    if info.get("role") == "slave":
        problems.append("Redis role replica: nothing can be recorded there; the master's address is expected")
    own = int(client.connection_pool.connection_kwargs.get("db") or 0)
    others = [number for number in range(DATABASES) if number != own and f"db{number}" in info]
    problems += [
        f"Redis database {number}: used with the prefix {prefix} too, and pub/sub knows no databases: another GATEWAY_PREFIX is expected"
        for number in await _with_events(client, prefix, others)
    ]
    return problems


async def _with_events(client: Redis, prefix: str, databases: list[int]) -> list[int]:
    """Those of the databases that a gateway with this prefix uses; none if we have no right to look into them."""
    if not databases:
        return []
    found = []
    async with _connected(client) as connection:
        with suppress(ResponseError):
            for number in databases:
                await connection.send_command("SELECT", number)
                await connection.read_response()
                await connection.send_command("EXISTS", f"{prefix}:clock")
                if await connection.read_response():
                    found.append(number)
    return found


@asynccontextmanager
async def _connected(client: Redis) -> AsyncIterator[AbstractConnection]:
    """A connection outside the pool: in the pool it would be left in another database, or subscribed to a channel."""
    connection = make_connection(client)
    try:
        await connection.connect()
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def _refusals(client: Redis, log: Log, prefix: str) -> list[str]:
    """What the server refuses at this moment of all that a gateway asks for, a line for each."""
    name = f"{prefix}:!check"
    written, published = await ask(client, [("SET", f"{prefix}:check", 1, "EX", 1), ("PUBLISH", name, b"")])
    [page] = await log.read([("check", "now", 1)])
    subscribed: Any = None
    async with _connected(client) as connection:
        try:
            await connection.send_command("SUBSCRIBE", name)
            await connection.read_response()
        except ResponseError as error:
            subscribed = error
    answers = {"a write": written, f"PUBLISH on {name}": published, f"SUBSCRIBE to {name}": subscribed, "reading a log": page}
    return [f"Redis: {what} is refused: {answer}" for what, answer in answers.items() if isinstance(answer, Exception)]
