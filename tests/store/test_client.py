"""Connecting to Redis, by its own address and through Sentinels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import BlockingConnectionPool
from redis.exceptions import RedisError

from gateway.embedded import free_port
from gateway.errors import SettingsError
from gateway.settings import read_settings
from gateway.store.client import is_elsewhere, parse_sentinels, redis_client
from gateway.store.connection import make_connection
from tests.faults.servers import RedisServer, Sentinel


def test_a_sentinel_url_is_taken_apart() -> None:
    hosts, service, options, sentinel_options = parse_sentinels(
        "redis+sentinel://ann:s%40cret@a,b:5000,[::1]:26380/mymaster/3?sentinel_username=bob&sentinel_password=pw"
    )

    assert hosts == [("a", 26379), ("b", 5000), ("::1", 26380)]
    assert service == "mymaster"
    assert options == {"username": "ann", "password": "s@cret", "db": 3}
    assert sentinel_options == {"username": "bob", "password": "pw"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://a:26379", "the service's name is missing"),
        ("redis+sentinel://a:0/mymaster", "Sentinel 'a': a port from 1 to 65535"),
        ("redis+sentinel://a,b:x/mymaster", "Sentinel 'b': a port from 1 to 65535"),
        ("redis+sentinel://a,/mymaster", "host or host:port"),
        ("redis+sentinel://a/mymaster/first", "the database"),
        ("redis+sentinel://a/mymaster?password=hunter2", "option 'password'"),
        ("redis+sentinel://ann:hunter2/mymaster", "Sentinel 'ann'"),
        ("redis+sentinel://a b/mymaster", "is expected"),
        ("redis://ann:hunter2", "is expected"),
        ("redis://ann:hunter2@a?colour=red", "option 'colour' is unknown"),
        ("unix://:hunter2@/redis.sock?ssl_ca_certs=/ca.pem", "option 'ssl_ca_certs' is unknown"),
        ("rediss://ann:hunter2@a?ssl_cert_reqs=maybe", "an option"),
        ("redis://ann:hunter2@a?db=first", "'db'"),
        ("redis://ann:hunter2@a/first", "a number is expected, the database"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason_and_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"GATEWAY_REDIS_URL": url})

    assert reason in str(refused.value)
    assert str(refused.value).startswith("GATEWAY_REDIS_URL: ")
    assert "hunter2" not in str(refused.value)


async def test_no_sentinel_is_forgotten_when_many_ask_at_once(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    sentinel = Sentinel(tmp_path)
    try:
        await redis.start()
        await sentinel.start(redis)
        client = redis_client(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/mymaster", 16)
        manager = cast("Any", client.connection_pool).sentinel_manager
        known = list(manager.sentinels)
        await asyncio.gather(*(client.ping() for _ in range(16)))
        kept = list(manager.sentinels)
        await client.aclose()
    finally:
        await sentinel.close()
        await redis.close()

    assert kept == known[::-1]  # the first to answer is tried first next time


async def test_sentinels_that_know_no_master_are_named_in_one_short_line() -> None:
    sentinels = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    async with redis_client(f"redis+sentinel://:hunter2@{','.join(sentinels)}/shop?sentinel_password=hunter2") as client:
        with pytest.raises(RedisError) as refused:
            await client.ping()

    line = str(refused.value)
    assert line.startswith(f"no Sentinel of {', '.join(sentinels)} names a master 'shop'")
    assert len(line) < 200
    assert "hunter2" not in line


async def test_redis_and_its_sentinels_have_passwords_of_their_own(tmp_path: Path) -> None:
    lines = ("requirepass guard", "sentinel auth-pass mymaster s@cret")
    redis = RedisServer(tmp_path, arguments=("--requirepass", "s@cret"))
    sentinel = Sentinel(tmp_path, lines=lines)
    try:
        await redis.start(wait=False)
        await sentinel.start(redis, password="guard")
        url = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/mymaster?sentinel_password=guard"

        async with redis_client(f"redis+sentinel://:s%40cret@{url}") as client:
            assert await client.ping()
            assert not await is_elsewhere(client, await connected(client))
        async with redis_client(f"redis+sentinel://:wrong@{url}") as client:
            with pytest.raises(RedisError):
                await client.ping()
        async with redis_client(f"redis+sentinel://:s%40cret@{url}x") as client:
            with pytest.raises(RedisError):
                await client.ping()
    finally:
        await sentinel.close()
        await redis.close()


async def connected(client: Redis):
    connection = make_connection(client)
    await connection.connect()
    await connection.disconnect(nowait=True)
    return connection


async def test_connections_are_bounded_however_redis_is_reached() -> None:
    for url in ("redis://localhost", "redis+sentinel://localhost/mymaster"):
        async with redis_client(url, 3) as client:
            pool = client.connection_pool
            assert isinstance(pool, BlockingConnectionPool)
            assert pool.max_connections == 3
