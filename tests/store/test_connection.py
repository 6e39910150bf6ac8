"""Connections to Redis: commands, replies, and failures in between."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.embedded import free_port
from gateway.errors import Unavailable
from gateway.store import connection
from gateway.store.client import redis_client
from gateway.store.connection import ask, inspect_server, make_connection, needs_redis
from tests.faults.proxy import Proxy
from tests.faults.servers import RedisServer
from tests.support.tls import tls_before


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


async def test_connections_over_tls_share_what_was_read_of_the_certificates(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(connection, "CERTIFICATES_SECONDS", 0.5)
    async with tls_before(int(redis_url.rpartition(":")[2]), tmp_path) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'certificate.pem'}"
        async with redis_client(url) as client:
            for pause in (0, 0, 0.6):
                await asyncio.sleep(pause)
                one = make_connection(client)
                await one.connect()
                made.append(one.ssl_context.get())  # type: ignore[attr-defined]
                await one.disconnect(nowait=True)

    assert made[0] is made[1] is not made[2]


async def test_a_certificate_that_was_replaced_is_read_before_the_second_try(redis_url: str, tmp_path: Path) -> None:
    redis_port, trusted = int(redis_url.rpartition(":")[2]), tmp_path / "trusted.pem"
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    async with tls_before(redis_port, before) as old, tls_before(redis_port, after) as new, Proxy(old) as way:
        shutil.copy(before / "certificate.pem", trusted)
        async with redis_client(f"rediss://localhost:{way.port}?ssl_ca_certs={trusted}") as client:
            await ask(client, [("PING",)])
            await client.connection_pool.disconnect()
            shutil.copy(after / "certificate.pem", trusted)
            way.target = new
            with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await ask(client, [("PING",)])

            assert await ask(client, [("PING",)]) == [b"PONG"]


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


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (RedisConnectionError("gone"), "is away: ConnectionError"),
        (TimeoutError(), "is away: TimeoutError"),
        (ConnectionResetError(), "is away: ConnectionResetError"),
        (OutOfMemoryError("used memory > 'maxmemory'"), "refuses: OutOfMemoryError"),
    ],
)
def test_whatever_redis_fails_with_is_answered_by_the_same_error(error: Exception, what: str) -> None:
    with pytest.raises(Unavailable, match=f"Redis {what}") as caught, needs_redis():
        raise error

    assert caught.value.__cause__ is error


def test_a_mistake_of_ours_is_not_taken_for_a_failure_of_redis() -> None:
    with pytest.raises(ZeroDivisionError), needs_redis():
        raise ZeroDivisionError
