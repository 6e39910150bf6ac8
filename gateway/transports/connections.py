"""Connections: every open stream of this process, its heartbeat, and the cut for a client that takes nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from gateway import metrics
from gateway.core.grant import Grant
from gateway.core.subscription import Subscription
from gateway.errors import STALLED, Unavailable
from gateway.transports.writer import Writer

logger = logging.getLogger("gateway.connections")

STALLED_SECONDS: Final = 25.0  # and a check every few seconds: cut within 30
CHECK_SECONDS: Final = 2.0
PARTS: Final = 20
CLOSE_SECONDS: Final = 5.0  # for the goodbye to reach a client


class Connection(Protocol):
    """One open stream."""

    transport: str
    writer: Writer
    subscription: Subscription
    grant: Grant

    def beat(self) -> None:
        """Write a heartbeat."""

    async def goodbye(self, code: int, reason: str) -> None:
        """Tell the client why, and end."""


class _State:
    """What the watch over one connection remembers."""

    __slots__ = ("ending", "part", "since", "taken")

    def __init__(self, part: int) -> None:
        self.part = part
        self.taken = -1
        self.since = 0.0
        self.ending = False


class Connections:
    """All open streams.

    Args:
        most: how many there may be
        heartbeat: seconds between two heartbeats
    """

    def __init__(self, most: int, heartbeat: float) -> None:
        self._open: dict[Connection, _State] = {}
        self._added = 0
        self._most = most
        self._heartbeat = heartbeat
        self._tasks: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """
        Raises:
            Unavailable: if there are as many as there may be.
        """
        if len(self._open) >= self._most:
            raise Unavailable(f"{self._most} connections are open, more are not allowed", retry_after=random.randint(1, 5))

    def add(self, connection: Connection) -> None:
        """Watch over a connection from now on."""
        self._added += 1
        self._open[connection] = _State(self._added % PARTS)
        metrics.CONNECTIONS.labels(connection.transport).inc()

    def remove(self, connection: Connection) -> None:
        """It is gone."""
        if self._open.pop(connection, None) is not None:
            metrics.CONNECTIONS.labels(connection.transport).dec()

    def shuffled(self) -> list[Connection]:
        """All of them, in no order."""
        return random.sample(list(self._open), len(self._open))

    async def closed(self) -> None:
        """Wait until all are gone, or a little longer than a goodbye may take."""
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while self._open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def end(self, connection: Connection, code: int, reason: str) -> None:
        """Say goodbye and end it, soon; a client that does not take the goodbye is cut."""
        state = self._open.get(connection)
        if state is not None and not state.ending:
            state.ending = True
            self.spawn(self._end(connection, code, reason))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something on behalf of a connection, owned by ``run``."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(work)

    async def _end(self, connection: Connection, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.goodbye(code, reason)
        except (TimeoutError, OSError, RuntimeError):
            connection.writer.abort()

    async def run(self) -> None:
        """Send heartbeats and cut the stalled, for ever."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                tasks.create_task(self._watch())
                await self._beat()
            finally:
                self._tasks = None

    async def _beat(self) -> None:
        # Not all at once: a twentieth every twentieth of the time.
        while True:
            for part in range(PARTS):
                await asyncio.sleep(self._heartbeat / PARTS)
                for connection, state in tuple(self._open.items()):
                    if state.part == part and not connection.subscription.full and not connection.subscription.closed:
                        connection.beat()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for connection, state in tuple(self._open.items()):
                if not connection.writer.buffered():
                    state.taken = -1
                    continue
                taken = connection.writer.taken()
                if taken != state.taken:
                    state.taken, state.since = taken, loop.time()
                elif loop.time() - state.since > STALLED_SECONDS:
                    metrics.STALLED.inc()
                    logger.info("%s client cut with %d: it took no bytes for %.0f s", connection.transport, STALLED, STALLED_SECONDS)
                    connection.writer.abort()
