"""Fixtures for all tests: a real Valkey, and real gateways as processes of their own."""

from __future__ import annotations

import functools
import os
import resource
import signal
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import hypothesis
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.embedded import embedded_server
from tests.support.ports import take_share
from tests.support.servers import Server, running_gateway

Publish = Callable[..., Awaitable[str]]
FILES = 8_192

take_share()

# These tests start hundreds of processes. Without cached bytecode each would spend a second compiling what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What they print is buffered, as it is for most users.
os.environ.pop("PYTHONUNBUFFERED", None)

# The settings of the gateway of whoever runs these tests, and the way to the world, lead none of the tests' own gateways astray.
for _name in [name for name in os.environ if name.startswith("GATEWAY_")]:
    del os.environ[_name]
_near = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "localhost,127.0.0.1,::1,.invalid")))
os.environ |= {"NO_PROXY": _near, "no_proxy": _near}

# Several tests open more files than the 256 of macOS or the 1,024 of many systems allow; how many there may be at all is another limit.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft != resource.RLIM_INFINITY and _soft < FILES:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if _hard == resource.RLIM_INFINITY else min(FILES, _hard), _hard))

# Hypothesis would fail an example that takes longer than 0.2 s, as any may on a busy machine.
hypothesis.settings.register_profile("patient", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("patient")

# A shell makes its background jobs ignore SIGINT, and their children inherit that; the gateways tested here must react to it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# nohup makes them ignore SIGHUP. This process goes on doing so, but by a function, which is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


_make_context = functools.lru_cache(lambda verify, cert, trust_env, _environ: httpx.create_ssl_context(verify, cert, trust_env))


def _context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """Share one TLS context among all clients with the same options.

    httpx loads all root certificates for each client, 30 ms of CPU, and these tests make thousands of clients.
    """
    return _make_context(verify, cert, trust_env, (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")))


vars(httpx._transports.default)["create_ssl_context"] = _context

# httpx gives up after five seconds, unless told otherwise; on a busy machine an answer may take longer. All its defaults are this object.
for _name in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _name, 30.0)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for each core to run the whole suite, which mostly waits; none to run a part, so that ``-s`` and a debugger work."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword and not config.option.usepdb
    return 2 * (os.cpu_count() or 1) if whole else 0


def need(present: object, what: str) -> None:
    """Skip a test if ``present`` is falsy, because a tool is not installed; in CI fail instead.

    Args:
        what: the tool, and the line that installs it
    """
    if not present:
        if os.environ.get("CI"):
            pytest.fail(f"needs {what}")
        pytest.skip(f"needs {what}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped and why, once for each reason: pytest shows the reasons only if it is asked to, and then for each test."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    for reason, tests in reasons.most_common():
        terminalreporter.write_line(f"{tests} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Valkey for one test alone."""
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module")
def shared_redis_url() -> Iterator[str]:
    """A Valkey that the tests of one module share; so each test uses channels of its own."""
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module", params=["direct", "plain"])
def server(request: pytest.FixtureRequest, shared_redis_url: str) -> Iterator[Server]:
    """A gateway that the tests of one module share; each runs twice, with our own server protocols and with uvicorn's."""
    with running_gateway(shared_redis_url, plain=request.param == "plain") as server:
        yield server
        assert "Traceback" not in server.output(), server.output()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A Redis client connected to ``redis_url``."""
    async with Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
async def shared_redis(shared_redis_url: str) -> AsyncIterator[Redis]:
    """A Redis client connected to ``shared_redis_url``."""
    async with Redis.from_url(shared_redis_url, protocol=2) as client:
        yield client


def publisher(client: Redis) -> Publish:
    """A function that publishes an event with one ``FCALL``, as a worker in any language would, and returns its id."""

    async def publish(channel: str, type: str = "message", data: Any = None, *, final: bool = False, **options: Any) -> str:
        event = {"type": type, "data": data} | ({"final": True} if final else {})
        words = [word for name, value in options.items() for word in (name.upper(), value)]
        answer = await client.execute_command("FCALL", "notify_publish", 1, channel, msgspec.json.encode(event), *words)
        id: str = answer.decode()
        return id

    return publish


@pytest.fixture
def publish(shared_redis: Redis) -> Publish:
    """Publish on ``shared_redis_url``; see ``publisher``."""
    return publisher(shared_redis)
