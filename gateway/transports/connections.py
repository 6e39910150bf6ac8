"""Connections: all open streams of this process. Sends their heartbeats, ends those that are old, and cuts clients that take no bytes.

Streams and waiting polls are counted in all, by address, and by the subject of their tokens.
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
from gateway.transports.log_lines import about
from gateway.transports.writer import Writer

logger = logging.getLogger("gateway.connections")

STALLED_SECONDS: Final = 25.0  # without a byte taken; with a check every few seconds a client is cut within 30
CHECK_SECONDS: Final = 2.0
PARTS: Final = 20  # in which the connections have their heartbeats, so that not all come at once
CLOSE_SECONDS: Final = 5.0  # for the goodbye to reach a client

Ending = Callable[[int, str], None]
"""Starts to end a connection, with a close code and a reason."""


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
        """Tell the client why the stream ends, and end it."""


class Limits(NamedTuple):
    """How many connections there may be.

    Attributes:
        total: in all
        per_address: from one IPv4 address, or from one IPv6 network of 64 bits, which is what one customer is given; 0 for any number
        per_subject: for one ``sub``; 0 for any number
    """

    total: int
    per_address: int = 0
    per_subject: int = 0


def address_of(scope: Mapping[str, Any]) -> str:
    """The address that a connection is counted for; empty if the server gives none, as for a Unix socket."""
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
    """What is remembered of one connection.

    Attributes:
        number: of the connection in this process
        address, subject: for which it is counted
        until: when it is told to reconnect, by the event loop's clock
        taken: the writer's ``taken`` when it last changed; -1 while nothing waits to be taken
        since: when that was
        ending: whether it is being ended
    """

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
        max_age: seconds after which a stream is told to reconnect, at the latest: each at a random moment in the second half; 0 for never

    Attributes:
        count: streams and waiting polls
    """

    def __init__(self, limits: Limits, heartbeat: float, max_age: float = 0.0) -> None:
        self._open: dict[Connection, _State] = {}
        self._parts: tuple[dict[Connection, None], ...] = tuple({} for _ in range(PARTS))  # the same, by the turn of their heartbeat
        self._waiting: dict[Ending, None] = {}  # what ends each of the polls
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

    # How many there are

    def check_room(self, address: str = "", subject: str = "") -> None:
        """Check that one more connection may be opened.

        Raises:
            Unavailable: if there are as many connections as there may be: in all, from this address, or for this subject.
        """
        total, per_address, per_subject = self._limits
        if self.count >= total:
            raise _full(f"{total} connections are open")
        if per_address and address and self._addresses.get(address, 0) >= per_address:
            raise _full(f"{per_address} connections are open from this address")
        if per_subject and subject and self._subjects.get(subject, 0) >= per_subject:
            raise _full(f"{per_subject} connections are open for this token's sub")

    @contextmanager
    def counted(self, address: str, subject: str, end: Ending = _nothing) -> Iterator[None]:
        """Count a poll, which needs no heartbeat, while this is entered.

        Args:
            address: as ``address_of`` gives it
            subject: of its grant
            end: called to have the poll answered before its time

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
        """Watch over a stream from now on."""
        self._added += 1
        # A random age, so that streams that were opened together do not all reconnect together.
        age = self._max_age if self._max_age == math.inf else self._max_age * random.uniform(0.5, 1)
        until = asyncio.get_running_loop().time() + age
        state = self._open[connection] = _State(self._added, address, connection.grant.subject, until)
        self._parts[state.number % PARTS][connection] = None
        self._enter(state.address, state.subject)
        metrics.CONNECTIONS[connection.transport].value += 1
        if logger.isEnabledFor(logging.DEBUG):
            self.log(connection, logging.DEBUG, "opened")

    def remove(self, connection: Connection) -> None:
        """Forget a stream that is gone."""
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

    # Their ends

    def endings(self) -> list[Ending]:
        """What ends each connection, in random order."""
        endings: list[Ending] = [*(partial(self.end, connection) for connection in self._open), *self._waiting]
        random.shuffle(endings)
        return endings

    async def closed(self) -> None:
        """Wait until all connections are gone, but no longer than a goodbye may take."""
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while self.count and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def end(self, connection: Connection, code: int, reason: str) -> None:
        """Start to end a stream with a goodbye. A client that does not take the goodbye is cut."""
        state = self._open.get(connection)
        if state is not None and not state.ending:
            state.ending = True
            metrics.GOODBYES[str(code)].value += 1
            expected = code in (DONE, GOING_AWAY, RESTART)
            self.log(connection, logging.DEBUG if expected else logging.INFO, "ended with %d: %s", code, reason)
            self.spawn(self._end(connection, code, reason))

    def log(self, connection: Connection, level: int, message: str, *arguments: object) -> None:
        """Log a line about a connection, with what is known of it."""
        if logger.isEnabledFor(level) and (state := self._open.get(connection)) is not None:
            number = f"{os.getpid()}-{state.number}"
            extra = about(connection=number, transport=connection.transport, subject=state.subject, address=state.address)
            logger.log(level, message, *arguments, extra=extra)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on behalf of a connection, in the task group of ``run``. If it fails, only that is logged."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(_logged(work))

    async def _end(self, connection: Connection, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.goodbye(code, reason)
        except (TimeoutError, OSError, RuntimeError):
            connection.writer.abort()

    # The tasks

    async def run(self) -> None:
        """Send heartbeats and cut stalled clients, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                tasks.create_task(self._watch())
                await self._beat()
            finally:
                self._tasks = None

    async def _beat(self) -> None:
        # Not all at once: one part after the other, spread over the time between two heartbeats.
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
                    self._retire(connection, state)
                if not connection.writer.buffered():
                    state.taken = -1
                elif (taken := connection.writer.taken()) != state.taken:
                    state.taken, state.since = taken, now
                elif now - state.since > STALLED_SECONDS:
                    self._cut(connection)

    def _retire(self, connection: Connection, state: _State) -> None:
        # Some time until the next check, or all that are due would reconnect at the same moment.
        state.until = math.inf
        pause = random.uniform(0, CHECK_SECONDS)
        asyncio.get_running_loop().call_later(pause, self.end, connection, RESTART, "this connection has grown old: reconnect")

    def _cut(self, connection: Connection) -> None:
        metrics.STALLED.value += 1
        self.log(connection, logging.INFO, "cut with %d: it took no bytes for %.0f s", STALLED, STALLED_SECONDS)
        connection.writer.abort()


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Log what goes wrong instead of raising it, so that it ends no other connection."""
    try:
        await work
    except Exception:
        logger.exception("something done for a connection has failed")


def _full(detail: str) -> Unavailable:
    # A random delay, so that clients do not all come back at once when there is room again.
    return Unavailable(f"{detail}, more are not allowed", retry_after=random.randint(1, 5))
