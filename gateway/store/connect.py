"""How Redis is reached: a plain, TLS or Unix socket address, or the Sentinels that know the address."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")
DEADLINE = 3.0  # seconds: a Redis that is silent for longer is away


def _options() -> dict[str, Any]:
    return {
        # RESP2 needs no HELLO and parses faster; both hold for commands and for pub/sub.
        "protocol": 2,
        "socket_timeout": DEADLINE,
        "socket_connect_timeout": DEADLINE,
        "socket_keepalive": True,
        # The default retries repeat writes that may have been done. Whoever calls knows what may be repeated.
        "retry": Retry(NoBackoff(), 0),
    }


def redis_client(url: str, connections: int = 8) -> Redis:
    """A client for the gateway's URL. Connects on first use.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, or
            ``redis+sentinel://[user:password@]host:26379,host2:26379/service[/db]``, where the password is Redis's own
            and ``?sentinel_password=`` that of the Sentinels
        connections: at most so many at once; further callers wait ``DEADLINE`` seconds for one
    """
    if not url.startswith("redis+sentinel:"):
        pool = BlockingConnectionPool.from_url(url, max_connections=connections, timeout=DEADLINE, **_options())
        return Redis.from_pool(pool)
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    query = dict(parse_qsl(parts.query))
    addresses = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        addresses.append((name.strip("[]"), int(port)))
    options = _options() | {"username": unquote(user) or None, "password": unquote(password) or None, "db": int(database or 0)}
    sentinel_options = _options() | {"password": query.get("sentinel_password")}
    sentinel = Sentinel(addresses, sentinel_kwargs=sentinel_options, **options)
    client: Redis = sentinel.master_for(service or "mymaster", connection_pool_class=SentinelConnectionPool)
    return client


def make_connection(client: Redis) -> AbstractConnection:
    """A connection of its own, outside the client's pool; its owner connects and closes it."""
    connection: AbstractConnection = client.connection_pool.make_connection()
    return connection
