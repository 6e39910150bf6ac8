"""The demo: a private Valkey, the gateway, a page, and workers that only pretend to work, all on this machine."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from types import FrameType
from typing import Any, Final, NoReturn

import click
import msgspec
from starlette.routing import BaseRoute, Route

from gateway.app import Gateway
from gateway.embedded import NoServer, embedded_server
from gateway.errors import BadRequest, SettingsError, Unprocessable
from gateway.pages.assets import asset
from gateway.pages.queue import QueuedWorkers, is_installed
from gateway.pages.workers import Workers
from gateway.server.run import bind, serve
from gateway.settings import Settings, read_settings
from gateway.store.client import redis_client
from gateway.store.log import Log
from gateway.transports.answers import answer, check_method
from gateway.transports.body import read_body
from gateway.transports.guarded import Guarded
from gateway.transports.writer import Receive, Send

MAX_BODY_BYTES: Final = 4_096

ASSETS: Final = {
    "/": "index.html",
    "/demo/demo.css": "demo.css",
    "/demo/demo.js": "demo.js",
    "/demo/card.js": "card.js",
    "/demo/plug.js": "plug.js",
    "/demo/icon.svg": "icon.svg",
}

HELLO: Final = '{"type":"progress","data":{"title":"From your terminal","text":"Half way","percent":50}}'
GOODBYE: Final = '{"type":"completed","final":true,"data":{"title":"From your terminal","text":"Hello from gateway publish"}}'


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """The request of the page to start a job."""

    kind: str


_order: Final = msgspec.json.Decoder(Order)


class JobsEndpoint:
    """Starts jobs: ``POST /demo/jobs``, for pages of this machine.

    Args:
        workers: which do the jobs
        demo: whose gate is asked; not before the first request, because the gate is made later than this
    """

    def __init__(self, workers: Workers, demo: Gateway) -> None:
        self._workers = workers
        self._demo = demo

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "POST")
        await self._demo.services.gate.authenticate(scope)
        body = await read_body(scope, receive, MAX_BODY_BYTES)
        try:
            order = _order.decode(body)
        except msgspec.ValidationError as error:
            raise Unprocessable(f'{error}: an object such as {{"kind":"transcode"}} is expected') from None
        except msgspec.DecodeError as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        channel = await self._workers.start(order.kind)
        await answer(send, 202, msgspec.json.encode({"job": channel}), b"application/json")


class Demo(Gateway):
    """The gateway with the page and the workers.

    Args:
        settings: with the address of Redis
        greeting: printed as soon as the gateway answers
        speed: how many times faster than usual the workers work
        queue: whether jobs are Celery tasks that run in a separate process
    """

    def __init__(self, settings: Settings, greeting: str, speed: float = 1.0, *, queue: bool = False) -> None:
        url = settings.redis_url or ""
        client = redis_client(url)
        log = Log(client, settings.prefix, settings.max_event_bytes)
        self._workers = QueuedWorkers(url, settings.prefix, client, log, speed) if queue else Workers(client, log, speed)
        self._greeting = greeting
        self._port = settings.port
        pages: list[BaseRoute] = [Route(path, asset(name)) for path, name in ASSETS.items()]
        super().__init__(settings, _stop, [*pages, Route("/demo/jobs", Guarded(JobsEndpoint(self._workers, self)))])

    @asynccontextmanager
    async def run(self, app: object = None) -> AsyncIterator[None]:
        """The lifespan: events are delivered and jobs run while it is entered."""
        async with super().run(app), self._workers.run(), asyncio.TaskGroup() as tasks:
            greeting = tasks.create_task(self._greet())
            try:
                yield
            finally:
                greeting.cancel()

    async def _greet(self) -> None:
        while not await _is_ready(self._port):
            await asyncio.sleep(0.05)
        click.echo(self._greeting)
        sys.stdout.flush()


async def _is_ready(port: int) -> bool:
    """Ask over HTTP as any client would, so that the greeting is printed only when it is true."""
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            return (await reader.readexactly(12)).endswith(b" 200")
    return False


def _stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def greeting(settings: Settings, *, private: bool) -> str:
    """The text that is printed at the start, with commands that can be pasted as they are.

    Args:
        settings: that the demo runs with
        private: whether the demo has started its own Redis, so that the commands must name it; otherwise it is GATEWAY_REDIS_URL's
    """
    address = f"http://127.0.0.1:{settings.port}"
    port = (settings.redis_url or "").rpartition(":")[2]
    where, environment = (f"-p {port}", f"GATEWAY_REDIS_URL={settings.redis_url} ") if private else ('-u "$GATEWAY_REDIS_URL"', "")
    cli = next((name for name in ("redis-cli", "valkey-cli") if shutil.which(name)), None)
    publish = f"{environment}{_typed()} publish jobs:hello"
    commands = (
        f"curl -N '{address}/sse?channel=jobs:hello'",
        f"{cli} {where} FCALL {settings.prefix}_publish 1 jobs:hello '{HELLO}'" if cli else f"{publish} '{HELLO}'",
        f"{publish} '{GOODBYE}'",
    )
    lines = [
        "",
        "  Open  " + click.style(address, bold=True, fg="cyan"),
        "",
        "  and, in another terminal, try",
        "",
        *("    " + command for command in commands),
        "",
        "  " + click.style("Ctrl-C ends it all." + ("" if private else " The Redis is that of GATEWAY_REDIS_URL."), dim=True),
        "",
    ]
    return "\n".join(lines)


def _typed() -> str:
    """What to type to run this program once more: without uv, it may be in an environment that is not on the PATH."""
    if "UV" in os.environ:
        return "uv run gateway"
    return "gateway" if shutil.which("gateway") else f"{shlex.quote(sys.executable)} -m gateway"


def _listen(port: int) -> socket.socket:
    try:
        return bind(Settings(port=port))
    except OSError as error:
        reason = "somebody else listens there" if error.errno == errno.EADDRINUSE else error.strerror
        raise SettingsError(
            f"port {port} of 127.0.0.1: {reason}; choose another one, or let `gateway demo --port 0` find one that is free"
        ) from None


def _leave(number: int, _frame: object) -> NoReturn:
    # 128 + n: the status with which a shell reports a process that was ended by signal n
    sys.exit(128 + number)


def _on_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup has set that, and it must stay so
        signal.signal(signal.SIGHUP, handler)


def run_demo(port: int, *, speed: float = 1.0) -> None:
    """Run the demo until a signal.

    Unless GATEWAY_REDIS_URL is set it starts a Valkey of its own, and on that also a Celery worker, if Celery is installed.

    Args:
        port: to listen on; 0 for a free one
        speed: how many times faster than usual the workers work

    Raises:
        SettingsError: if the port cannot be bound, there is no Valkey to start, or a setting is wrong.
    """
    chosen = read_settings(os.environ)
    # Signals are held back while Valkey starts and stops. It does not belong to the terminal's session, so if a signal ended this
    # process in between, Valkey would go on running.
    early: list[int] = []
    _on_signals(lambda number, _frame: early.append(number))
    with ExitStack() as stack:
        listener = stack.enter_context(closing(_listen(port)))
        try:
            url = chosen.redis_url or stack.enter_context(embedded_server())
        except NoServer as error:
            raise SettingsError(f"{error}; or set GATEWAY_REDIS_URL to the address of one that runs") from None
        stack.callback(_on_signals, signal.SIG_IGN)
        _on_signals(_leave)
        if early:
            _leave(early[0], None)
        settings = Settings(
            redis_url=url,
            port=listener.getsockname()[1],
            prefix=chosen.prefix,
            max_event_bytes=chosen.max_event_bytes,
            max_connections=500,  # what a laptop's limit of open files allows
            auth="none",
            drain_seconds=0,
            log_level="error",
        )
        private = chosen.redis_url is None
        # Celery only on our own Redis, because it would leave a queue behind on another one.
        demo = Demo(settings, greeting(settings, private=private), speed, queue=private and is_installed())
        serve(demo, settings, listener)
