"""Connections that never make a worker wait: short timeouts, no retries, and a limit to looking up names.

redis-py gives the connect timeout to each address in turn, and to the system's resolver none at all, which can hang for half
a minute. So a connection is made in a thread of its own, and one that comes too late is closed there.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.retry import Retry

SHARE: Final = 1 / 3  # of a call's time, for connecting; as much for an answer: enough for one that is late and a second try with a key


def connect_within(seconds: float, connect: Callable[[], socket.socket]) -> socket.socket:
    """Call ``connect`` in a thread and give up on it in time.

    Raises:
        TimeoutError: if it takes longer. Its socket is closed when it comes.
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
        threading.Thread(target=run, name="notify-connect", daemon=True).start()
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
    """A TLS connection: the timeout includes the TLS handshake."""

    def _connect(self) -> socket.socket:
        return connect_within(self.socket_connect_timeout or 60, super()._connect)


_BOUNDED: Final = {Connection: BoundedConnection, SSLConnection: BoundedSSLConnection}


def patience(timeout: float) -> dict[str, Any]:
    """The options of a connection for threads, of which a publisher's call takes no more than these seconds."""
    return {"socket_connect_timeout": timeout * SHARE, "socket_timeout": timeout * SHARE, "retry": Retry(NoBackoff(), 0)}


def make_client(url: str, timeout: float) -> redis.Redis:
    """A client for threads. What the URL's query says outranks what is chosen here.

    Raises:
        ValueError: if the URL is none of Redis, or has an option that redis-py does not know.
    """
    # A connection per thread that publishes at this moment: redis-py 8 would refuse the 101st.
    chosen: dict[str, Any] = parse_url(url)
    options = patience(timeout) | {"protocol": 2, "max_connections": 2**31} | chosen  # RESP2 spares the handshake a round trip
    kind = options.pop("connection_class", Connection)
    pool = ConnectionPool(connection_class=_BOUNDED.get(kind, kind), **options)
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"url: {error}") from None
    return redis.Redis(connection_pool=pool)


def _honest(base: Any) -> Any:
    """The connection class, so that a write to a connection that has closed is an error of Redis's on every event loop.

    asyncio's own loop takes such a write in silence, and the read that follows fails; uvloop raises ``RuntimeError``.
    """

    class Honest(base):  # type: ignore[misc]
        async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*arguments, **options)
            except RuntimeError as error:
                raise redis.ConnectionError(f"the connection is closed: {error}") from error

    return Honest


def make_async_client(url: str, timeout: float) -> redis.asyncio.Redis:
    """A client for one event loop. Raises as ``make_client``."""
    options = patience(timeout) | {"protocol": 2, "retry": AsyncRetry(NoBackoff(), 0)}
    pool = redis.asyncio.ConnectionPool.from_url(url, **options)
    pool.connection_class = _honest(pool.connection_class)
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"url: {error}") from None
    return redis.asyncio.Redis(connection_pool=pool)
