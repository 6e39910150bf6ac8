"""The application: its routes, its lifespan, and the wiring of its parts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.errors import NotFound, SettingsError, UpgradeRequired
from gateway.feed import Feed
from gateway.server.drain import draining
from gateway.settings import Settings, allowed_origins, given_problems, key_problems, read_settings
from gateway.store.checks import server_problems
from gateway.store.client import redis_client
from gateway.store.revocations import RevocationStore
from gateway.store.tickets import Tickets
from gateway.tasks import until_one_ends
from gateway.transports.access import Access
from gateway.transports.answers import answer_problem
from gateway.transports.connections import Connections
from gateway.transports.credentials import Gate, OpenGate, TokenGate
from gateway.transports.figures import update_figures
from gateway.transports.files import FileEndpoint
from gateway.transports.guarded import Guarded
from gateway.transports.origin import Cors, Origins
from gateway.transports.polling import PollEndpoint
from gateway.transports.publish import PublishEndpoint
from gateway.transports.request import Endpoint
from gateway.transports.revoke import RevokeEndpoint
from gateway.transports.room import Limits
from gateway.transports.services import Services
from gateway.transports.sse import SseEndpoint
from gateway.transports.status import LiveEndpoint, MetricsEndpoint, ReadyEndpoint
from gateway.transports.tickets import TicketEndpoint
from gateway.transports.websocket import WebSocketEndpoint
from gateway.transports.writer import Receive, Send

if TYPE_CHECKING:
    from gateway.auth.keys import Keys

logger = logging.getLogger("gateway")

Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Stop = Callable[[], None]

_ENDPOINTS: Final[dict[str, Callable[[Services], Endpoint]]] = {
    "/sse": SseEndpoint,
    "/poll": PollEndpoint,
    "/publish": PublishEndpoint,
    "/livez": LiveEndpoint,
    "/readyz": ReadyEndpoint,
    "/metrics": MetricsEndpoint,
}
_CLIENTS: Final = {"client.js": "client.min.js", "job-progress.js": "job-progress.js"}  # the name in the URL, and the file
# What pages of other origins may call, and how. Not WebSocket, to which browsers do not apply CORS.
_FOR_PAGES: Final = {"/sse": "GET", "/poll": "GET", "/publish": "POST", "/tickets": "POST", **{f"/{name}": "GET" for name in _CLIENTS}}


async def _not_found(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    raise NotFound(f"path {scope['path'][:80]!a}: there is nothing here")


async def _upgrade_required(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    error = UpgradeRequired("this is a WebSocket endpoint: an upgrade to websocket, version 13, is expected")
    await answer_problem(send, error, [(b"upgrade", b"websocket"), (b"connection", b"upgrade")])


class Gateway(Starlette):
    """The gateway as an ASGI application. Made by ``create_app``.

    If it is mounted in another application, that one has to enter its lifespan:

    >>> gateway = create_app(Settings(redis_url="redis://localhost", auth="none"))
    >>> app = FastAPI(lifespan=gateway.run)
    >>> app.mount("/notify", gateway)

    Args:
        settings: with the address of Redis
        stop: as in ``create_app``
        pages: further routes, such as the demo's

    Attributes:
        services: what its endpoints share
        failed: whether its feed has died
    """

    def __init__(self, settings: Settings, stop: Stop, pages: Iterable[BaseRoute] = ()) -> None:
        if settings.redis_url is None:
            raise SettingsError("GATEWAY_REDIS_URL: not set; an address such as redis://localhost:6379 is expected")
        if problems := given_problems(settings) or key_problems(settings):
            raise SettingsError("\n".join(problems))
        super().__init__(lifespan=self.run)
        self.router.redirect_slashes = False
        self.router.default = Guarded(_not_found)
        self._settings = settings
        self._stop = stop
        self._pages = tuple(pages)
        self.failed = False
        self._used = False  # whether its lifespan was entered before
        self._set_up()

    def _set_up(self) -> None:
        """Make everything that belongs to one event loop, and the routes to it."""
        settings = self._settings
        self._client = redis_client(settings.redis_url or "")
        feed = Feed(self._client, settings.prefix, settings.max_event_bytes)
        revocations = RevocationStore(self._client, settings.prefix)
        tickets = Tickets(self._client, settings.prefix)
        access = Access(feed, revocations)
        gate, self._runners = _make_gate(settings, access, tickets)
        self.services = Services(
            feed=feed,
            connections=Connections(
                Limits(settings.max_connections, settings.max_connections_per_ip, settings.max_connections_per_sub),
                settings.heartbeat_seconds,
                settings.max_age_seconds,
            ),
            gate=gate,
            access=access,
            anybody=settings.auth == "none",
            max_channels=settings.max_channels,
            max_event_bytes=settings.max_event_bytes,
        )
        endpoints: dict[str, Endpoint] = {path: make(self.services) for path, make in _ENDPOINTS.items()}
        endpoints |= {"/tickets": TicketEndpoint(self.services, tickets), "/revoke": RevokeEndpoint(self.services, revocations)}
        endpoints |= {path: FileEndpoint(file) for path, file in _files().items()}
        routes: list[BaseRoute] = [Route(path, self._guard(path, endpoint)) for path, endpoint in endpoints.items()]
        self._streams: dict[tuple[str, str], Asgi] = {
            ("websocket", "/ws"): Guarded(WebSocketEndpoint(self.services)),
            ("http", "/sse"): self._guard("/sse", endpoints["/sse"]),
        }
        routes += [WebSocketRoute("/ws", self._streams["websocket", "/ws"]), Route("/ws", Guarded(_upgrade_required))]
        self.router.routes = [*routes, *self._pages]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        # Starlette's router and error handlers take a third of a handshake's time, so the streams go past them, unless the application
        # is mounted somewhere or has middleware.
        alone = not (self.user_middleware or scope.get("root_path"))
        stream = self._streams.get((scope["type"], scope.get("path", ""))) if alone else None
        await (super().__call__(scope, receive, send) if stream is None else stream(scope, receive, send))

    def _guard(self, path: str, endpoint: Endpoint) -> Asgi:
        guarded = Guarded(endpoint)
        return Cors(guarded, self.services.gate.origins, _FOR_PAGES[path]) if path in _FOR_PAGES else guarded

    @asynccontextmanager
    async def run(self, app: object = None) -> AsyncIterator[None]:
        """The lifespan: events are delivered while it is entered. A host application has to enter it too."""
        if self._used:  # perhaps on another event loop, as in the host's tests
            self._set_up()
        self._used = True
        services = self.services
        work = asyncio.ensure_future(self._work())
        work.add_done_callback(self._ended)
        services.running = True
        try:
            async with draining(services, self._settings.drain_seconds):
                yield
        except asyncio.CancelledError:
            # After a second signal uvicorn cancels the lifespan instead of shutting it down, and would log a traceback.
            if not services.draining:
                raise
        finally:
            services.running = False
            work.cancel()
            await asyncio.wait([work])
            await self._client.aclose()

    async def _work(self) -> None:
        services = self.services
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._warn())
            await until_one_ends(
                services.feed.run(),
                services.connections.run(),
                services.access.run(),
                update_figures(services),
                *(runner.run() for runner in self._runners),
            )

    async def _warn(self) -> None:
        """Log what this Redis cannot promise, once events get through, so that it does not delay the start."""
        while not self.services.feed.ready:
            await asyncio.sleep(0.1)
        with suppress(RedisError, OSError):
            for problem in await server_problems(self._client, self._settings.prefix):
                logger.warning("%s", problem)

    def _ended(self, work: asyncio.Future[None]) -> None:
        if self.services.running and not work.cancelled():
            # Without a feed the clients would wait for ever. A supervisor will start another process.
            logger.critical("the feed has died, this process stops", exc_info=work.exception())
            self.services.running = False
            self.failed = True
            self._stop()


class _Runner(Protocol):
    """Something that has to run in the background for as long as the application does."""

    async def run(self) -> None: ...


def _make_gate(settings: Settings, access: Access, tickets: Tickets) -> tuple[Gate, list[_Runner]]:
    """The gate for these settings, and what has to run for it."""
    origins = Origins(allowed_origins(settings), local=settings.auth == "none")
    if settings.auth == "none":
        return OpenGate(origins), []
    runners: list[_Runner] = []
    tokens = backend = None
    # Imported only where they are needed: cryptography and the HTTP client take a third of a second to import.
    if settings.authorize_url is not None:
        from gateway.auth.backend import Backend  # noqa: PLC0415

        backend = Backend(settings.authorize_url)
        runners.append(backend)
    if settings.jwt_secret or settings.jwt_public_key or settings.jwks_url:
        from gateway.auth.tokens import Tokens  # noqa: PLC0415

        tokens = Tokens(_make_keys(settings, runners), settings.jwt_audience, settings.jwt_issuer)
    return TokenGate(origins, access, tickets, tokens, backend), runners


def _make_keys(settings: Settings, runners: list[_Runner]) -> Keys:
    from gateway.auth.keys import FixedKey, pem_key, secret_key  # noqa: PLC0415

    if settings.jwks_url is not None:
        from gateway.auth.jwks import Jwks  # noqa: PLC0415

        jwks = Jwks(settings.jwks_url)
        runners.append(jwks)
        return jwks
    return FixedKey(secret_key(settings.jwt_secret) if settings.jwt_secret is not None else pem_key(settings.jwt_public_key or ""))


def _files() -> dict[str, Path]:
    """The static files by path. The browser client is a part of the installed package; in a checkout it is in clients/js."""
    pages = Path(__file__).parent / "pages"
    folders = (pages, pages.parent.parent / "clients" / "js")
    clients = {f"/{name}": folder / file for folder in reversed(folders) for name, file in _CLIENTS.items() if (folder / file).is_file()}
    return {"/openapi.json": pages / "openapi.json", **clients}


def _exit() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(settings: Settings | None = None, *, stop: Stop = _exit) -> Gateway:
    """Make the gateway as an ASGI application.

    Args:
        settings: read from the environment variables ``GATEWAY_*`` if not given
        stop: called if the feed dies, after which nothing can be delivered; if not given, this process sends itself SIGTERM

    Raises:
        SettingsError: if the address of Redis or a key for tokens is missing, or a setting is wrong.
    """
    return Gateway(settings or read_settings(os.environ), stop)
