"""Connections: the open streams and the waiting polls of this process.

It sends the streams' heartbeats, ends those that are old, and cuts clients that take no bytes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from gateway import metrics
from gateway.core.grant import Grant
from gateway.core.subscription import Subscription
from gateway.errors import DONE, GOING_AWAY, RESTART, STALLED
from gateway.tasks import until_one_ends
from gateway.transports.log_lines import about
from gateway.transports.room import Limits, Room
from gateway.transports.writer import Writer

logger = logging.getLogger("gateway.connections")

STALLED_SECONDS: Final = 21.0  # without a byte taken; with the time between two checks a client is cut within 30
CHECK_SECONDS: Final = 4.0  # each asks the kernel, which costs 1 us for each stream
PARTS: Final = 20  # in which the streams have their heartbeats and are checked, so that not all come at once
CLOSE_SECONDS: Final = 5.0  # for the goodbye to reach a client

Ending = Callable[[int, str], None]
"""Starts to end a connection, with a close code and a reason."""


class OpenStream(Protocol):
    """One open stream, over SSE or WebSocket."""

    transport: str
    writer: Writer
    subscription: Subscription
    grant: Grant

    def beat(self) -> None:
        """Write a heartbeat."""

    async def goodbye(self, code: int, reason: str) -> None:
        """Tell the client why the stream ends, and end it."""


class _State:
    """What is remembered of one stream.

    Attributes:
        number: of the stream in this process
        address, subject: for which it is counted
        until: when it is told to reconnect, by the event loop's clock
        taken: the writer's ``taken`` when it last changed; ``None`` while nothing waits to be taken
        since: when that was
        ending: whether it is being ended
    """

    __slots__ = ("address", "ending", "number", "since", "subject", "taken", "until")

    def __init__(self, number: int, address: str, subject: str, until: float) -> None:
        self.number = number
        self.address = address
        self.subject = subject
        self.until = until
        self.taken: int | None = None
        self.since = 0.0
        self.ending = False


class Connections:
    """All open streams and waiting polls.

    Args:
        limits: how many there may be
        heartbeat: seconds between two heartbeats
        max_age: seconds after which a stream is told to reconnect, at the latest: each at a random moment in the second half; 0 for never

    Attributes:
        room: counts them
    """

    def __init__(self, limits: Limits, heartbeat: float, max_age: float = 0.0) -> None:
        self.room = Room(limits)
        self._open: dict[OpenStream, _State] = {}
        self._parts: tuple[dict[OpenStream, None], ...] = tuple({} for _ in range(PARTS))  # the same, by the turn of their heartbeat
        self._waiting: dict[Ending, None] = {}  # what ends each of the polls
        self._added = 0
        self._heartbeat = heartbeat
        self._max_age = max_age or math.inf
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def count(self) -> int:
        """How many streams and waiting polls there are."""
        return self.room.count

    # Their beginnings

    @contextmanager
    def counted(self, address: str, subject: str, end: Ending) -> Iterator[None]:
        """Count a poll, which needs no heartbeat, while this is entered.

        Args:
            address: as ``address_of`` gives it (room.py)
            subject: of its grant
            end: called to have the poll answered before its time

        Raises:
            Unavailable: as ``Room.check``.
        """
        self.room.check(address, subject)
        self.room.enter(address, subject)
        metrics.CONNECTIONS["poll"].value += 1
        self._waiting[end] = None
        try:
            yield
        finally:
            self._waiting.pop(end, None)
            metrics.CONNECTIONS["poll"].value -= 1
            self.room.leave(address, subject)

    def add(self, stream: OpenStream, address: str) -> None:
        """Watch over a stream from now on."""
        self._added += 1
        # A random age, so that streams that were opened together do not all reconnect together.
        age = self._max_age if self._max_age == math.inf else self._max_age * random.uniform(0.5, 1)
        until = asyncio.get_running_loop().time() + age
        state = self._open[stream] = _State(self._added, address, stream.grant.subject, until)
        self._parts[state.number % PARTS][stream] = None
        self.room.enter(state.address, state.subject)
        metrics.CONNECTIONS[stream.transport].value += 1
        if logger.isEnabledFor(logging.DEBUG):
            self.log(stream, logging.DEBUG, "opened")

    def remove(self, stream: OpenStream) -> None:
        """Forget a stream that is gone."""
        self.log(stream, logging.DEBUG, "closed")
        state = self._open.pop(stream, None)
        if state is not None:
            del self._parts[state.number % PARTS][stream]
            self.room.leave(state.address, state.subject)
            metrics.CONNECTIONS[stream.transport].value -= 1

    # Their ends

    def endings(self) -> list[Ending]:
        """What ends each connection, in random order."""
        endings: list[Ending] = [*(partial(self.end, stream) for stream in self._open), *self._waiting]
        random.shuffle(endings)
        return endings

    async def closed(self) -> None:
        """Wait until all connections are gone, but no longer than a goodbye may take."""
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while self.count and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def end(self, stream: OpenStream, code: int, reason: str) -> None:
        """Start to end a stream with a goodbye. A client that does not take the goodbye is cut."""
        state = self._open.get(stream)
        if state is not None and not state.ending:
            state.ending = True
            self.note_end(stream, code, reason)
            if self._tasks is None:  # ``run`` has ended, so nobody would see to the goodbye
                stream.writer.abort()
            else:
                self.spawn(self._end(stream, code, reason))

    def note_end(self, stream: OpenStream, code: int, reason: str) -> None:
        """Count and log that the gateway ends a stream."""
        metrics.ended(code)
        expected = code in (DONE, GOING_AWAY, RESTART)
        self.log(stream, logging.DEBUG if expected else logging.INFO, "ended with %d: %s", code, reason)

    def log(self, stream: OpenStream, level: int, message: str, *arguments: object) -> None:
        """Log a line about a stream, with what is known of it."""
        if logger.isEnabledFor(level) and (state := self._open.get(stream)) is not None:
            number = f"{os.getpid()}-{state.number}"
            extra = about(connection=number, transport=stream.transport, subject=state.subject, address=state.address)
            logger.log(level, message, *arguments, extra=extra)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on behalf of a connection, in the task group of ``run``. If it fails, only that is logged."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(_logged(work))

    async def _end(self, stream: OpenStream, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await stream.goodbye(code, reason)
        except (OSError, RuntimeError):
            stream.writer.abort()

    # The tasks

    async def run(self) -> None:
        """Send heartbeats and cut stalled clients, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await until_one_ends(self._watch(), self._beat())
            finally:
                self._tasks = None

    async def _beat(self) -> None:
        # Not all at once: one part after the other, spread over the time between two heartbeats.
        while True:
            for part in self._parts:
                await asyncio.sleep(self._heartbeat / PARTS)
                for stream in tuple(part):
                    if not stream.subscription.full and not stream.subscription.closed:
                        stream.beat()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for part in self._parts:
                await asyncio.sleep(CHECK_SECONDS / PARTS)
                now = loop.time()
                for stream in tuple(part):
                    if (state := self._open.get(stream)) is not None:
                        self._check(stream, state, now)

    def _check(self, stream: OpenStream, state: _State, now: float) -> None:
        """Retire a stream that is old, and cut one whose client takes no bytes."""
        if state.until < now:
            self._retire(stream, state)
        if not stream.writer.buffered():
            state.taken = None
            return
        before, state.taken = state.taken, stream.writer.taken()
        if state.taken != before:
            state.since = now
            if before is not None:
                stream.writer.be_patient()
        elif now - state.since > STALLED_SECONDS:
            self._cut(stream)

    def _retire(self, stream: OpenStream, state: _State) -> None:
        # Some time until the next check, or all that are due would reconnect at the same moment.
        state.until = math.inf
        pause = random.uniform(0, CHECK_SECONDS)
        asyncio.get_running_loop().call_later(pause, self.end, stream, RESTART, "this connection has grown old: reconnect")

    def _cut(self, stream: OpenStream) -> None:
        metrics.STALLED.value += 1
        metrics.ended(STALLED)
        self.log(stream, logging.INFO, "cut with %d: it took no bytes for %.0f s", STALLED, STALLED_SECONDS)
        stream.writer.abort()


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Log what goes wrong instead of raising it, so that it ends no other connection."""
    try:
        await work
    except Exception:
        logger.exception("something done for a connection has failed")
