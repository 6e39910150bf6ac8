"""Run: serves the gateway with uvicorn, in one process or in several."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import multiprocessing.process
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import uvicorn

from gateway import exposition
from gateway.errors import SettingsError
from gateway.server import supervisor
from gateway.server.descriptors import RESERVE, raise_limit
from gateway.server.logs import log_config
from gateway.server.protocols import HttpProtocol
from gateway.server.sockets import WebSocketProtocol
from gateway.settings import Settings

logger = logging.getLogger("gateway.server")

BACKLOG: Final = 4_096
# How many connections are accepted in one turn of the event loop (loadtest/experiments/accepted-at-once).
ACCEPTED_AT_ONCE: Final = 8
UNSENT_BYTES: Final = 131_072  # that the kernel holds for a client beside those on their way (loadtest/experiments/socket-options)
UNANSWERED_MS: Final = 30_000  # for which the kernel waits until a client confirms what was sent to it; streams see to that themselves
GRACE_SECONDS: Final = 5  # for requests that are left after the drain
# The thresholds of the garbage collector. It runs less often than by default, because the objects of 10,000 clients stay, and going
# through them again and again costs 7 % of their handshakes (loadtest/experiments/garbage-collector).
COLLECT_AFTER: Final = (10_000, 20, 50)
# Where there is such a folder, the workers save their figures there: each does so once a second in its event loop, which a slow disk
# would stop.
IN_MEMORY: Final = "/dev/shm"  # noqa: S108 - a folder of random name is made in it
KEEP_ALIVE_SECONDS: Final = 65  # longer than the 60 s after which proxies close an idle connection


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    """End this worker when its supervisor is gone, which may have been killed: the port must be free for the next one."""
    parent.join()
    shutil.rmtree(os.environ.get(exposition.FOLDER, ""), ignore_errors=True)  # which the supervisor removes at its end
    os.kill(os.getpid(), signal.SIGTERM)


class _Config(uvicorn.Config):
    """uvicorn's configuration. Each process loads it once, after everything is imported, so what exists then is left uncollected."""

    def load(self) -> None:
        try:
            super().load()
        except SettingsError as error:  # in a worker: a file with a secret has changed since the gateway's start
            for problem in str(error).splitlines():
                logger.critical("this worker cannot start: %s", problem)
            sys.exit(1)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        if self.workers > 1 and (parent := multiprocessing.parent_process()) is not None:
            threading.Thread(target=_end_after, args=(parent,), name="supervisor", daemon=True).start()


def server_config(app: str | Callable[..., Any], settings: Settings, **others: Any) -> uvicorn.Config:
    """Uvicorn's configuration for an application.

    Args:
        app: the application, or where to import it from
        settings: the gateway's
        others: further arguments of ``uvicorn.Config``
    """
    return _Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=65_536,
        lifespan="on",
        log_config=log_config(settings.log_level, settings.log_format),
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=supervisor.WORKER_SECONDS,
        **others,
    )


def bind(settings: Settings) -> socket.socket:
    """Open the listening socket.

    Raises:
        OSError: if the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # If a client vanishes without closing its connection, the kernel gives up after a while without an answer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Otherwise the kernel would buffer megabytes for each client that reads slowly. With this bound the client falls behind, and
        # reads on from the log.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _handles(listener: socket.socket) -> Iterator[list[socket.socket]]:
    """The listening socket and duplicates of it, because libuv accepts one connection of each handle in a turn of the event loop.

    When many clients come at once, their handshakes then run in batches: one question to the kernel for all, and the code of each step
    is in the CPU's caches for all but the first.
    """
    with ExitStack() as stack:
        yield [listener, *(stack.enter_context(listener.dup()) for _ in range(ACCEPTED_AT_ONCE - 1))]


def _raise_limits(settings: Settings) -> None:
    files = raise_limit()
    if settings.max_connections + RESERVE > files:
        logger.warning(
            "GATEWAY_MAX_CONNECTIONS is %d, but only %d files may be open: raise the limit (ulimit -n, LimitNOFILE=)",
            settings.max_connections,
            files,
        )


def _announce(settings: Settings, listener: socket.socket) -> None:
    if settings.log_format == "json":  # with text logs the command line prints it
        logger.info("gateway on %s port %d", settings.host, listener.getsockname()[1])


def serve(app: Callable[..., Any], settings: Settings, listener: socket.socket) -> None:
    """Serve an application in this process, until a signal.

    Args:
        app: the application
        settings: the gateway's
        listener: made by ``bind``
    """
    config = server_config(app, settings)
    _announce(settings, listener)
    _raise_limits(settings)
    with _handles(listener) as handles:
        uvicorn.Server(config).run(handles)


def serve_workers(settings: Settings, listener: socket.socket) -> None:
    """Serve with several worker processes, until a signal.

    Each worker makes its application from the environment. That knows nothing of what the command line may say otherwise: the address
    and the number of workers.

    Args:
        settings: the gateway's
        listener: made by ``bind``
    """
    with _figures_folder():
        _supervise(settings, listener)


@contextmanager
def _figures_folder() -> Iterator[None]:
    """A temporary folder in which the workers save their figures for each other."""
    try:
        folder = _temporary_folder()
    except OSError as error:
        logger.warning("no folder for temporary files (%s): /metrics tells what one worker has counted, any of them", error)
        yield
        return
    with folder as name:
        os.environ[exposition.FOLDER] = name
        yield


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    with suppress(OSError):
        return tempfile.TemporaryDirectory(prefix="gateway-", dir=IN_MEMORY, ignore_cleanup_errors=True)
    return tempfile.TemporaryDirectory(prefix="gateway-", ignore_cleanup_errors=True)


def _supervise(settings: Settings, listener: socket.socket) -> None:
    config = server_config("gateway.app:create_app", settings, workers=settings.workers, factory=True)
    _announce(settings, listener)
    _raise_limits(settings)
    with _handles(listener) as handles:
        supervisor.Supervisor(config, handles).run()
