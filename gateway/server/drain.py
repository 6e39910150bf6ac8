"""Drain: a shutdown that clients do not notice.

uvicorn would close all WebSockets at once, whose clients would all reconnect at once, and would wait for SSE streams for ever. Here the
first SIGTERM, SIGINT or SIGHUP closes the streams one after the other, spread over the drain time. A second signal ends the process at
once.

Until the end new clients are told that it shuts down, and so is whoever asks for ``/readyz``; an EventSource, which would give up then, is
served. Only a worker that another one replaces leaves the port to the others at once, and then nobody is refused.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn

from gateway.errors import RESTART
from gateway.transports.services import Services

logger = logging.getLogger("gateway.drain")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REASON: Final = "the gateway restarts: reconnect"
LEAVE: Final = signal.SIGUSR1  # from the supervisor, to a worker that another one replaces


@asynccontextmanager
async def draining(services: Services, seconds: float) -> AsyncIterator[None]:
    """While entered, a signal drains and then stops the uvicorn server that runs this process.

    Under another server, or in another thread than the main one, it does nothing, because then signals are the host's business.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server) or threading.current_thread() is not threading.main_thread():
        yield
        return
    drains: list[asyncio.Task[None]] = []  # one, once a signal has come
    loop = asyncio.get_running_loop()
    is_worker = multiprocessing.parent_process() is not None

    def stop(number: int) -> None:
        if services.draining:
            server.force_exit = server.should_exit = True
            return
        services.draining = True
        services.feed.greet()  # those who wait for the head of their answer: a second signal would end them without it
        if number == LEAVE:
            for listener in server.servers:
                listener.close()
        drains.append(loop.create_task(_drain(services, seconds, server)))

    def on_signal(number: int, _: Any) -> None:
        # Ctrl-C in a terminal sends SIGINT to every process, and the workers' parent passes it on as SIGTERM. A worker must not count
        # that as two signals, so it ignores the first. So it is with SIGHUP, for which the parent replaces the workers one by one.
        if number in (signal.SIGTERM, LEAVE) or not is_worker:
            loop.call_soon_threadsafe(stop, number)

    signals = (*SIGNALS, LEAVE) if is_worker else SIGNALS
    heeded = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP, and it must stay so
    before = {number: signal.signal(number, on_signal) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for drain in drains:
            drain.cancel()


async def _drain(services: Services, seconds: float, server: uvicorn.Server) -> None:
    try:
        loop = asyncio.get_running_loop()
        started = loop.time()
        endings = services.connections.endings()
        if not services.running:
            seconds = 0.0  # the feed has died: clients that stay would get nothing
        logger.info("draining: %d connections in %.0f s", len(endings), seconds if endings else 0)
        for i, end in enumerate(endings):
            # Each at its time by the clock: with a fixed pause between two, small delays would add up to seconds.
            await asyncio.sleep(max(0.0, started + seconds * i / len(endings) - loop.time()))
            end(RESTART, REASON)
        for end in services.connections.endings():  # those that have come meanwhile
            end(RESTART, REASON)
        await services.connections.closed()
        logger.info("drained in %.1f s, %d connections are left", loop.time() - started, services.connections.count)
    finally:
        server.should_exit = True
