"""Connection: connections to Redis that write commands directly, and commands sent over them.

They take the place of redis-py's, which do much more in Python, and leave some failures to the event loop.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, RedisSSLContext, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.errors import Unavailable
from gateway.store.names import Names

UNSENT_BYTES: Final = 65_536  # with more bytes unsent, a writer waits until the server takes some
CERTIFICATES_SECONDS: Final = 60.0  # for which certificates that were read are used, unless a connection fails with them


class Certificates:
    """The TLS context that a client's connections share.

    redis-py makes one for each connection, and for that reads all certificates of the system. In the tens of milliseconds which that takes
    no event is delivered, and there is a new connection every few seconds (store/listener.py, ``ADDRESS_CHECKS``).
    """

    def __init__(self) -> None:
        self._shared: RedisSSLContext | None = None
        self._since = 0.0

    def share(self, own: RedisSSLContext) -> RedisSSLContext:
        """The context to use in place of a connection's own."""
        self._shared = self._shared or own
        if time.monotonic() - self._since > CERTIFICATES_SECONDS:
            self.forget()
        return self._shared

    def forget(self) -> None:
        """Have the files read again, because they may have changed."""
        self._since = time.monotonic()
        if self._shared is not None:
            self._shared.context = None


class _Direct(AbstractConnection):
    """Stands before redis-py's connection class: packs commands in C, writes without a task, and resolves names by ``Names``.

    redis-py packs each argument in Python, which takes 1 us, and writes under ``asyncio.wait_for`` in a task, which takes as long again
    and before Python 3.12 can swallow a cancellation (python/cpython#86296), so that a loop that was cancelled goes on for ever.

    Here a failed write is always a Redis error. Otherwise it would depend on the event loop: a write to a closed connection raises
    nothing in asyncio (only the next read does), ``RuntimeError`` in uvloop, and ``AttributeError`` in redis-py if another task has
    just closed it.
    """

    _names: Names
    _certificates: Certificates
    ssl_context: RedisSSLContext  # only of a connection over TLS
    _writer: Any  # None once another task has closed the connection

    async def _connect(self) -> None:
        connect: Callable[[], Awaitable[None]] = super()._connect  # type: ignore[safe-super]  # that of redis-py's class
        if isinstance(self, UnixDomainSocketConnection):
            await connect()
            return
        failure: OSError | None = None
        async with asyncio.timeout(self.socket_connect_timeout):
            for address in await self._names.find(self.host):
                self._address = address
                try:
                    await connect()
                except OSError as error:
                    if isinstance(error, ssl.SSLError):
                        self._certificates.forget()
                    failure = error
                else:
                    return
        raise failure or OSError("the host has no address")

    def _connection_arguments(self) -> dict[str, Any]:
        if (own := getattr(self, "ssl_context", None)) is not None:
            self.ssl_context = self._certificates.share(own)
        arguments = {**super()._connection_arguments(), "host": self._address}  # type: ignore[misc]
        if "ssl" in arguments:
            arguments["server_hostname"] = self.host  # the name that the certificate must be for
        return arguments

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    async def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:  # type: ignore[override]
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        try:
            # Not with writelines: before Python 3.12.9 and 3.13.2 drain does not wait after it (python/cpython#127655).
            self._writer.write(b"".join(command))
            if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES:
                async with asyncio.timeout(self.socket_timeout):
                    await self._writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("the server takes no bytes") from None
        except (OSError, RuntimeError, AttributeError) as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"the connection is closed: {error}") from error
        except BaseException:  # half a command may have been sent
            await self.disconnect(nowait=True)
            raise


def direct(base: type[AbstractConnection]) -> type[AbstractConnection]:
    """A subclass of redis-py's connection class that writes directly. Its connections share ``Names`` and ``Certificates``."""
    return type("Connection", (_Direct, base), {"_names": Names(), "_certificates": Certificates()})


@contextmanager
def needs_redis() -> Iterator[None]:
    """What is done while this is entered needs Redis.

    Raises:
        Unavailable: if Redis is away, or refuses.
    """
    try:
        yield
    except (RedisError, OSError) as error:
        what = "refuses" if isinstance(error, ResponseError) else "is away"  # such as with its memory full
        raise Unavailable(f"Redis {what}: {type(error).__name__}") from error


async def ask(client: Redis, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Send commands in one write, and collect the answers.

    A lean pipeline: redis-py's calls some 60 Python functions for each command.

    Returns:
        for each command its answer, or the exception with which Redis refused it

    Raises:
        RedisError, OSError: if Redis is away.
    """
    pool = client.connection_pool
    connection = await pool.get_connection()
    try:
        answers = await _exchange(connection, commands)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            await connection.disconnect(nowait=True)  # the address may lead to another master by now
        return answers
    finally:
        await pool.release(connection)


async def _exchange(connection: AbstractConnection, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    packed = [hiredis.pack_command(command) for command in commands]
    await connection.send_packed_command(packed)
    return [await _answer(connection) for _ in packed]


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as refusal:
        return refusal


async def drop_idle(client: Redis) -> None:
    """Close the pool's connections that nobody uses at this moment.

    The pool's own ``disconnect`` closes them a moment later in tasks, so that another task may take one that is about to be closed.
    """
    pool = client.connection_pool
    for connection in list(pool._available_connections):  # noqa: SLF001 - see above
        await connection.disconnect(nowait=True)  # runs without a pause, so no other task can take one meanwhile


async def inspect_server(client: Redis, name: bytes, *, anew: bool = False) -> tuple[bool | None, bool]:
    """Ask the server that the client's commands go to about itself.

    Args:
        client: whose server is meant
        name: a pub/sub channel
        anew: use a new connection, which leads to where the address leads now; those of the pool may lead to an earlier server

    Returns:
        whether anybody is subscribed to this pub/sub channel there (``None`` if it does not say), and whether it is a replica

    Raises:
        RedisError, OSError: if it is away.
    """
    commands = [("PUBSUB", "NUMSUB", name), ("INFO", "replication")]
    if anew:
        connection = make_connection(client)
        try:
            followers, replication = await _exchange(connection, commands)
        finally:
            await connection.disconnect(nowait=True)
    else:
        followers, replication = await ask(client, commands)
    followed = None if isinstance(followers, Exception) else bool(followers[1])
    return followed, isinstance(replication, bytes) and b"role:slave" in replication


def make_connection(client: Redis) -> AbstractConnection:
    """A connection outside the client's pool. The caller connects and closes it."""
    connection: AbstractConnection = client.connection_pool.make_connection()
    return connection
