"""How Redis is reached: by its own address, and by its Sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.embedded import free_port
from gateway.errors import SettingsError
from gateway.settings import read_settings
from gateway.store.connect import ask, inspect_server, is_elsewhere, make_connection, parse_sentinels, redis_client
from tests.faults.proxy import Proxy
from tests.faults.servers import RedisServer, Sentinel


def test_the_parts_of_a_sentinel_url() -> None:
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

    assert kept == known[::-1]  # the one that answers comes first


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


def test_a_write_to_a_connection_that_has_closed_is_an_error_of_redis_on_uvloop_too() -> None:
    async def write() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = redis_client(f"redis://127.0.0.1:{port}")
            connection = make_connection(client)
            connection._reader, connection._writer = await asyncio.open_connection("127.0.0.1", port)
            await connection._reader.read()
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            try:
                with pytest.raises(RedisConnectionError):
                    await connection.send_command("PING", check_health=False)
            finally:
                await connection.disconnect(nowait=True)
                await client.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write())


@asynccontextmanager
async def connected_to_one_that_reads_nothing() -> AsyncIterator[AbstractConnection]:
    over = asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()

    async with await asyncio.start_server(wait, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with redis_client(f"redis://127.0.0.1:{port}?socket_timeout=0.2") as client:
            connection = make_connection(client)
            connection._reader, connection._writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                yield connection
            finally:
                over.set()


async def test_a_redis_that_takes_no_bytes_is_given_up() -> None:
    async with connected_to_one_that_reads_nothing() as connection:
        with pytest.raises(RedisTimeoutError):
            await connection.send_packed_command([b"x" * 20_000_000], check_health=False)

        assert not connection.is_connected


async def test_who_is_cancelled_while_a_command_is_sent_leaves_no_half_of_it_behind() -> None:
    async with connected_to_one_that_reads_nothing() as connection:
        connection.socket_timeout = 60
        sending = asyncio.ensure_future(connection.send_packed_command([b"x" * 20_000_000], check_health=False))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])

        assert sending.cancelled()
        assert not connection.is_connected


async def test_a_refusal_stands_in_its_place_among_the_answers(redis_url: str) -> None:
    async with redis_client(redis_url) as client:
        answers = await ask(client, [("SET", "text", "1"), ("LPUSH", "text", "2"), ("GET", "text")])

        assert isinstance(answers.pop(1), ResponseError)
        assert answers == [b"OK", b"1"]


async def test_a_replica_is_known_where_the_access_rights_do_not_allow_to_ask_for_followers(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "server")
    try:
        await server.start()
        await server.client.execute_command("ACL", "SETUSER", "gateway", "on", "nopass", "+info")
        async with redis_client(f"redis://gateway:any@127.0.0.1:{server.port}") as client:
            assert await inspect_server(client, b"a") == (None, False)

            await server.client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
            assert await inspect_server(client, b"a") == (None, True)
    finally:
        await server.close()


async def test_what_a_replica_has_refused_goes_to_where_the_name_leads_now(tmp_path: Path) -> None:
    old, new = RedisServer(tmp_path, "old"), RedisServer(tmp_path, "new")
    try:
        await old.start()
        await new.start()
        async with Proxy(old.port) as way, redis_client(f"redis://127.0.0.1:{way.port}", 1) as client:
            assert await inspect_server(client, b"a") == (False, False)

            way.target = new.port
            await old.client.execute_command("REPLICAOF", "127.0.0.1", str(new.port))
            assert await inspect_server(client, b"a") == (False, True)
            refusal, *_ = await ask(client, [("SET", "name", "1"), ("PING",)])
            assert isinstance(refusal, ReadOnlyError)
            assert await ask(client, [("SET", "name", "2")]) == [b"OK"]

            assert await inspect_server(client, b"a") == (False, False)
    finally:
        await old.close()
        await new.close()
