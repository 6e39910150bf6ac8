"""What all tests share: a real Valkey, real gateways."""

from __future__ import annotations

import functools
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.embedded import embedded_server
from tests.support.servers import Server, running_gateway

Publish = Callable[..., Awaitable[str]]

# Some hundred processes start in these tests: without bytecode each would compile all that it imports, for a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that starts something in the background lets it ignore Ctrl-C, and so all that it starts; what is tested here must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_make_context = functools.lru_cache(lambda verify, cert, trust_env, _environ: httpx.create_ssl_context(verify, cert, trust_env))


def _context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """One for all who want the same: httpx loads all certificates for each client, 30 ms of CPU, and these tests make thousands of them."""
    return _make_context(verify, cert, trust_env, (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")))


vars(httpx._transports.default)["create_ssl_context"] = _context


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Twice as many as there are cores for the whole suite, which waits much; for a part of it none, so that ``-s`` and a debugger work."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword and not config.option.usepdb
    return 2 * (os.cpu_count() or 1) if whole else 0


def need(present: object, what: str) -> None:
    """Skip a test whose tool is not on this machine, with the line that installs it; in CI it fails instead."""
    if not present:
        if os.environ.get("CI"):
            pytest.fail(f"needs {what}")
        pytest.skip(f"needs {what}")


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Valkey of one test's own."""
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module")
def shared_redis_url() -> Iterator[str]:
    """A Valkey for the tests of one module: take channels of your own."""
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module", params=["direct", "plain"])
def server(request: pytest.FixtureRequest, shared_redis_url: str) -> Iterator[Server]:
    """A gateway for the tests of one module: with our protocols, and under those of uvicorn."""
    with running_gateway(shared_redis_url, plain=request.param == "plain") as server:
        yield server
        assert "Traceback" not in server.output(), server.output()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the test's own Valkey."""
    async with Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
async def shared_redis(shared_redis_url: str) -> AsyncIterator[Redis]:
    """A client of the module's Valkey."""
    async with Redis.from_url(shared_redis_url, protocol=2) as client:
        yield client


def publisher(client: Redis) -> Publish:
    """Publishes as a worker in any language would: one command."""

    async def publish(channel: str, type: str = "message", data: Any = None, *, final: bool = False, **options: Any) -> str:
        event = {"type": type, "data": data} | ({"final": True} if final else {})
        words = [word for name, value in options.items() for word in (name.upper(), value)]
        answer = await client.execute_command("FCALL", "notify_publish", 1, channel, msgspec.json.encode(event), *words)
        id: str = answer.decode()
        return id

    return publish


@pytest.fixture
def publish(shared_redis: Redis) -> Publish:
    """Publishes on the module's Valkey."""
    return publisher(shared_redis)
