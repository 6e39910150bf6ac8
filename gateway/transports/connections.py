"""Connections: every open stream of this process, its heartbeat, and the cut for a client that takes nothing.

Streams and waiting polls are counted: in all, for each address and for each subject of a token.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from gateway import metrics
from gateway.core.grant import Grant
from gateway.core.subscription import Subscription
from gateway.errors import DONE, GOING_AWAY, RESTART, STALLED, Unavailable
from gateway.transports.lines import about
from gateway.transports.writer import Writer

logger = logging.getLogger("gateway.connections")

STALLED_SECONDS: Final = 25.0  # and a check every few seconds: cut within 30
CHECK_SECONDS: Final = 2.0
PARTS: Final = 20
CLOSE_SECONDS: Final = 5.0  # for the goodbye to reach a client


Ending = Callable[[int, str], None]
"""Ends a connection with a close code and a reason, soon."""


def _nothing(code: int, reason: str) -> None:
    pass


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


class Limits(NamedTuple):
    """How many connections there may be; 0 for any number, of those that come second.

    Attributes:
        most: in all
        per_address: from one IPv4 address, or from one IPv6 network of 64 bits, which is what one customer is given
        per_subject: for one ``sub``
    """

    most: int
    per_address: int = 0
    per_subject: int = 0


def address_of(scope: Mapping[str, Any]) -> str:
    """Whom a connection is counted for; empty where the server tells no address, as for a Unix socket."""
    client = scope.get("client")
    host = client[0] if client else ""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class _State:
    """What the watch over one connection remembers."""

    __slots__ = ("address", "ending", "number", "since", "subject", "taken", "until")

    def __init__(self, number: int, address: str, subject: str, until: float) -> None:
        self.number = number
        self.address = address
        self.subject = subject
        self.until = until
        self.taken = -1
        self.since = 0.0
        self.ending = False


class Connections:
    """All open streams.

    Args:
        limits: how many there may be
        heartbeat: seconds between two heartbeats
        max_age: seconds after which a stream is told to reconnect, each at a moment of its own up to then; 0 for never

    Attributes:
        count: streams and waiting polls
    """

    def __init__(self, limits: Limits, heartbeat: float, max_age: float = 0.0) -> None:
        self._open: dict[Connection, _State] = {}
        self._parts: tuple[dict[Connection, None], ...] = tuple({} for _ in range(PARTS))  # the same, by when they have their heartbeat
        self._waiting: dict[Ending, None] = {}
        self._added = 0
        self.count = 0
        self._addresses: dict[str, int] = {}
        self._subjects: dict[str, int] = {}
        self._limits = limits
        self._heartbeat = heartbeat
        self._max_age = max_age or math.inf
        self._tasks: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self, address: str = "", subject: str = "") -> None:
        """
        Raises:
            Unavailable: if there are as many connections as there may be, in all or for one of these.
        """
        most, per_address, per_subject = self._limits
        if self.count >= most:
            raise _full(f"{most} connections are open")
        if per_address and address and self._addresses.get(address, 0) >= per_address:
            raise _full(f"{per_address} connections are open from this address")
        if per_subject and subject and self._subjects.get(subject, 0) >= per_subject:
            raise _full(f"{per_subject} connections are open for this token's sub")

    @contextmanager
    def counted(self, address: str, subject: str, end: Ending = _nothing) -> Iterator[None]:
        """Count a connection that needs no watching over, such as a poll, until left; ``end`` is asked to end it sooner.

        Raises:
            Unavailable: as ``check_room``.
        """
        self.check_room(address, subject)
        self._enter(address, subject)
        metrics.CONNECTIONS["poll"].value += 1
        self._waiting[end] = None
        try:
            yield
        finally:
            self._waiting.pop(end, None)
            metrics.CONNECTIONS["poll"].value -= 1
            self._leave(address, subject)

    def add(self, connection: Connection, address: str) -> None:
        """Watch over a connection from now on."""
        self._added += 1
        # Those that came together go one by one.
        age = self._max_age if self._max_age == math.inf else self._max_age * random.uniform(0.5, 1)
        until = asyncio.get_running_loop().time() + age
        state = self._open[connection] = _State(self._added, address, connection.grant.subject, until)
        self._parts[state.number % PARTS][connection] = None
        self._enter(state.address, state.subject)
        metrics.CONNECTIONS[connection.transport].value += 1
        if logger.isEnabledFor(logging.DEBUG):
            self.log(connection, logging.DEBUG, "opened")

    def remove(self, connection: Connection) -> None:
        """It is gone."""
        self.log(connection, logging.DEBUG, "closed")
        state = self._open.pop(connection, None)
        if state is not None:
            del self._parts[state.number % PARTS][connection]
            self._leave(state.address, state.subject)
            metrics.CONNECTIONS[connection.transport].value -= 1

    def _enter(self, address: str, subject: str) -> None:
        self.count += 1
        for names, name in ((self._addresses, address), (self._subjects, subject)):
            names[name] = names.get(name, 0) + 1

    def _leave(self, address: str, subject: str) -> None:
        self.count -= 1
        for names, name in ((self._addresses, address), (self._subjects, subject)):
            names[name] -= 1
            if not names[name]:
                del names[name]

    def endings(self) -> list[Ending]:
        """What ends each of them, in no order."""
        endings: list[Ending] = [*(partial(self.end, connection) for connection in self._open), *self._waiting]
        random.shuffle(endings)
        return endings

    async def closed(self) -> None:
        """Wait until all are gone, or a little longer than a goodbye may take."""
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while self.count and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def end(self, connection: Connection, code: int, reason: str) -> None:
        """Say goodbye and end it, soon; a client that does not take the goodbye is cut."""
        state = self._open.get(connection)
        if state is not None and not state.ending:
            state.ending = True
            metrics.GOODBYES[str(code)].value += 1
            expected = code in (DONE, GOING_AWAY, RESTART)
            self.log(connection, logging.DEBUG if expected else logging.INFO, "ended with %d: %s", code, reason)
            self.spawn(self._end(connection, code, reason))

    def log(self, connection: Connection, level: int, message: str, *arguments: object) -> None:
        """Log a line about a connection."""
        if logger.isEnabledFor(level) and (state := self._open.get(connection)) is not None:
            number = f"{os.getpid()}-{state.number}"
            extra = about(connection=number, transport=connection.transport, subject=state.subject, address=state.address)
            logger.log(level, message, *arguments, extra=extra)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something on behalf of a connection, owned by ``run``. What goes wrong with it is no other connection's loss."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(_alone(work))

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
            for part in self._parts:
                await asyncio.sleep(self._heartbeat / PARTS)
                for connection in tuple(part):
                    if not connection.subscription.full and not connection.subscription.closed:
                        connection.beat()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = loop.time()
            for connection, state in tuple(self._open.items()):
                if state.until < now:
                    # Spread until the next look, or all that are due would come back in one moment.
                    state.until = math.inf
                    pause = random.uniform(0, CHECK_SECONDS)
                    loop.call_later(pause, self.end, connection, RESTART, "this connection has grown old: reconnect")
                if not connection.writer.buffered():
                    state.taken = -1
                    continue
                taken = connection.writer.taken()
                if taken != state.taken:
                    state.taken, state.since = taken, now
                elif now - state.since > STALLED_SECONDS:
                    metrics.STALLED.value += 1
                    self.log(connection, logging.INFO, "cut with %d: it took no bytes for %.0f s", STALLED, STALLED_SECONDS)
                    connection.writer.abort()


async def _alone(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("something done for a connection has failed")


def _full(detail: str) -> Unavailable:
    # Not all at once when there is room again.
    return Unavailable(f"{detail}, more are not allowed", retry_after=random.randint(1, 5))
