"""Connection: connections to Redis that never make a worker wait long: short timeouts, no retries, and a bound on name resolution.

redis-py applies the connect timeout to each address in turn, and no timeout to the system's resolver, which can hang for half a minute.
So a connection is made in a separate thread, and closed there if it comes too late.
"""

from __future__ import annotations

import _thread
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.retry import Retry

# The part of a call's time that connecting may take, and also an answer: then there is time for a second try, if the call has a key.
SHARE: Final = 1 / 3


def connect_within(seconds: float, connect: Callable[[], socket.socket]) -> socket.socket:
    """Call ``connect`` in a thread, and wait for it no longer than this.

    Raises:
        TimeoutError: if it takes longer. If it still succeeds later, its socket is closed.
    """
    future: Future[socket.socket] = Future()

    def run() -> None:
        made: socket.socket | None = None
        failure: BaseException | None = None
        try:
            made = connect()
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure = error
        if not future.set_running_or_notify_cancel():
            if made is not None:
                made.close()
        elif made is not None:
            future.set_result(made)
        else:
            future.set_exception(failure)

    try:
        # Not with threading.Thread, which waits, without a bound, until the new thread runs: that may find no memory.
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter is shutting down, or has no thread left
        return connect()
    try:
        return future.result(seconds)
    except BaseException:
        if not future.cancel() and future.exception() is None:
            future.result().close()
        raise


class BoundedConnection(Connection):
    """A TCP connection."""

    def _connect(self) -> socket.socket:
        return connect_within(self.socket_connect_timeout or 60, super()._connect)


class BoundedSSLConnection(SSLConnection):
    """A TLS connection, whose timeout includes the TLS handshake."""

    def _connect(self) -> socket.socket:
        return connect_within(self.socket_connect_timeout or 60, super()._connect)


_BOUNDED: Final = {Connection: BoundedConnection, SSLConnection: BoundedSSLConnection}


def timeouts(timeout: float) -> dict[str, Any]:
    """The options of a connection with which a publisher's call takes no longer than ``timeout`` seconds."""
    return {"socket_connect_timeout": timeout * SHARE, "socket_timeout": timeout * SHARE, "retry": Retry(NoBackoff(), 0)}


def _check_address(url: str) -> None:
    """Check what redis-py would quote in an error: a password with an unescaped ``#``, ``/`` or ``?`` stands where the port belongs.

    Raises:
        ValueError: if the URL has no valid host or port. The error does not show the URL.
    """
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError("url: redis://host:6379 is expected, with special characters of a password in percent-encoding") from None


def make_client(url: str, timeout: float) -> redis.Redis:
    """A client for threads. Options in the URL's query outrank those chosen here.

    Raises:
        ValueError: if the URL is not one of Redis, or has an option that redis-py does not know.
    """
    _check_address(url)
    # The number of connections is bounded by the publisher, not by the pool, which in redis-py 8 would refuse the 101st.
    chosen: dict[str, Any] = parse_url(url)
    options = timeouts(timeout) | {"protocol": 2, "max_connections": 2**31} | chosen  # RESP2 spares the handshake a round trip
    kind = options.pop("connection_class", Connection)
    pool = ConnectionPool(connection_class=_BOUNDED.get(kind, kind), **options)
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"url: {error}") from None
    return redis.Redis(connection_pool=pool)


def _with_redis_errors(base: Any) -> Any:
    """A subclass of the connection class in which a write to a closed connection is a Redis error on every event loop.

    On asyncio's own event loop such a write raises nothing, and the next read fails; on uvloop it raises ``RuntimeError``.
    """

    class WithRedisErrors(base):  # type: ignore[misc]
        async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*arguments, **options)
            except RuntimeError as error:
                raise redis.ConnectionError(f"the connection is closed: {error}") from error

    return WithRedisErrors


def make_async_client(url: str, timeout: float) -> redis.asyncio.Redis:
    """A client for one event loop. Raises as ``make_client``."""
    _check_address(url)
    options = timeouts(timeout) | {"protocol": 2, "retry": AsyncRetry(NoBackoff(), 0)}
    pool = redis.asyncio.ConnectionPool.from_url(url, **options)
    pool.connection_class = _with_redis_errors(pool.connection_class)
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"url: {error}") from None
    return redis.asyncio.Redis(connection_pool=pool)
