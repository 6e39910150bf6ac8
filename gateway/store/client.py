"""Client: clients for Redis, by TCP, TLS or Unix socket, or through Sentinels that know the address."""

from __future__ import annotations

import re
from copy import copy
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.store.connection import direct

DEADLINE: Final = 3.0  # seconds: a Redis that is silent for longer counts as away
SENTINEL_DEADLINE: Final = 1.0  # seconds: Sentinels are asked one after the other within the time that one connection may take
SENTINEL_SCHEME: Final = "redis+sentinel://"
SENTINEL_PORT: Final = 26379

# These hold even if the URL says otherwise, which may have been written for another program. RESP2 needs no HELLO and parses faster.
_FIXED: Final = {"protocol": 2, "decode_responses": False}


def _options() -> dict[str, Any]:
    return {
        **_FIXED,
        "socket_timeout": DEADLINE,
        "socket_connect_timeout": DEADLINE,
        "socket_keepalive": True,
        # By default redis-py repeats commands, also writes that may have been carried out. Only the caller knows what may be repeated.
        "retry": Retry(NoBackoff(), 0),
    }


class _Sentinels(Sentinel):
    """redis-py's Sentinels, safe for concurrent use.

    redis-py moves the Sentinel that answers to the front of a list that other tasks may be iterating over by index. If two tasks do so
    at once, one Sentinel ends up in the list twice, and another one drops out: it is never asked again, nor closed.
    """

    async def discover_master(self, service_name: str) -> Any:
        asked = copy(self)
        asked.sentinels = list(self.sentinels)
        try:
            address = await Sentinel.discover_master(asked, service_name)
        except MasterNotFoundError:
            # Not with its own text, which describes each Sentinel's connection in a kilobyte.
            places = (client.connection_pool.connection_kwargs for client in self.sentinels)
            shown = ", ".join(f"{place['host']}:{place['port']}" for place in places)
            raise MasterNotFoundError(
                f"no Sentinel of {shown} names a master {service_name!a} that is well; check the addresses, sentinel_password and the name"
            ) from None
        self.sentinels = asked.sentinels
        return address


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """A bounded pool of connections to the present master. When all of it is closed, so are the connections to the Sentinels."""

    async def release(self, connection: AbstractConnection) -> None:
        # A connection that was in use while the master changed leads to the old one.
        if self.master_address not in (None, (getattr(connection, "host", None), getattr(connection, "port", None))):
            await connection.disconnect(nowait=True)
        await super().release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def parse_sentinels(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Parse ``redis+sentinel://[user:password@]host[:port],.../service[/db][?sentinel_username=..&sentinel_password=..]``.

    Returns:
        the Sentinels' addresses, the service's name, the options for connections to Redis, and those for connections to Sentinels

    Raises:
        ValueError: if the URL is wrong. The error names the part at fault, but never a password.
    """
    address, _, query = url.removeprefix(SENTINEL_SCHEME).partition("?")
    network, _, path = address.partition("/")
    login, _, hosts = network.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = path.partition("/")
    asked = dict(parse_qsl(query))
    if not service:
        raise ValueError("the service's name is missing: /mymaster after the last host")
    if database and not database.isdecimal():
        raise ValueError("after the service's name a number is expected, the database")
    if unknown := asked.keys() - {"sentinel_username", "sentinel_password"}:
        raise ValueError(f"option {min(unknown)!a}: sentinel_username and sentinel_password are known")
    options = {"username": unquote(user) or None, "password": unquote(password) or None, "db": int(database or 0)}
    sentinel_options = {"username": asked.get("sentinel_username"), "password": asked.get("sentinel_password")}
    return [_host(host) for host in hosts.split(",")], service, options, sentinel_options


def _host(text: str) -> tuple[str, int]:
    name, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = text, str(SENTINEL_PORT)
    if not name.strip("[]"):
        raise ValueError(f"Sentinel {text!a}: host or host:port is expected")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        # The text in the port's place is not shown: if the @ was forgotten, it is the password.
        raise ValueError(f"Sentinel {name!a}: a port from 1 to 65535 is expected after the colon")
    return name.strip("[]"), int(port)


def redis_client(url: str, connections: int = 8) -> Redis:
    """A client for a URL. It connects on first use.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, or ``redis+sentinel://`` as in ``parse_sentinels``
        connections: how many there may be at once; further callers wait up to ``DEADLINE`` seconds for one

    Raises:
        ValueError: if the URL is wrong.
    """
    bounds = {"max_connections": connections, "timeout": DEADLINE}
    pool: BlockingConnectionPool
    if not url.startswith(SENTINEL_SCHEME):
        pool = BlockingConnectionPool.from_url(url, **bounds, **_options())
        if issubclass(pool.connection_class, UnixDomainSocketConnection):
            del pool.connection_kwargs["socket_keepalive"]
        pool.connection_class = direct(pool.connection_class)
        pool.connection_kwargs |= _FIXED
        return Redis.from_pool(pool)
    addresses, service, options, sentinel_options = parse_sentinels(url)
    deadlines = {"socket_timeout": SENTINEL_DEADLINE, "socket_connect_timeout": SENTINEL_DEADLINE}
    sentinel = _Sentinels(addresses, sentinel_kwargs=_options() | deadlines | sentinel_options)  # type: ignore[no-untyped-call]
    for client in sentinel.sentinels:
        client.connection_pool.connection_class = direct(client.connection_pool.connection_class)
    connection_class = direct(SentinelManagedConnection)
    pool = _SentinelPool(service, sentinel, connection_class=connection_class, **bounds, **_options(), **options)  # type: ignore[no-untyped-call]
    return Redis.from_pool(pool)


def check_url(url: str) -> None:
    """Check a URL for ``redis_client``, without connecting.

    Raises:
        ValueError: if the URL is wrong, or its query has an option that this kind of connection does not know. The error never shows a
            password.
    """
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/*[0-9]*/*", parts.path):  # redis-py would take database 0
        raise ValueError("after the host and port a number is expected, the database")
    try:
        redis_client(url).connection_pool.make_connection()
    except TypeError as error:
        raise ValueError(f"option {str(error).rpartition(' ')[2]} is unknown") from None
    except (RedisError, AttributeError):
        raise ValueError("an option after the ? is wrong") from None


async def is_elsewhere(client: Redis, connection: AbstractConnection) -> bool:
    """Whether the Sentinels name another master than the server of this connection; ``False`` without Sentinels.

    Raises:
        RedisError, OSError: if none of them knows.
    """
    pool = client.connection_pool
    if not isinstance(pool, _SentinelPool) or not isinstance(connection, SentinelManagedConnection):
        return False
    address: tuple[str, int] = await pool.get_master_address()  # type: ignore[no-untyped-call]
    return address != (connection.host, connection.port)
