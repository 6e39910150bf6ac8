"""Outage: decides while Redis is away when to try it again, and counts the events that are dropped.

Both classes may be used from many threads at once, do no I/O, and never wait for anything but a short lock. A signal handler or a
finalizer may use them in the middle of such a use by its own thread, so the locks are reentrant.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from threading import RLock
from typing import Final

from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError

FIRST_WINDOW: Final = 0.5  # seconds after the first failure until the next try; the window doubles with each failure
LAST_WINDOW: Final = 5.0
JITTER: Final = 0.25  # the part of a window by which it varies, so that a thousand workers do not all try in the same moment
QUIET: Final = 5.0  # seconds at least between two reports, in case Redis comes and goes with every event

DropCallback = Callable[[str, str, Exception], None]
"""Called with the channel, the type and the reason for each event that is dropped."""

logger: Final = logging.getLogger("notify_client")

# redis-py removes these codes from the message, and before version 7 kept them nowhere else.
_CODES: Final[dict[type[Exception], str]] = {
    AuthenticationError: "NOAUTH",
    BusyLoadingError: "LOADING",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
}


def describe(error: Exception) -> str:
    """The error in one line: the server's error code or the kind of failure, and the message."""
    code = getattr(error, "status_code", None) or _CODES.get(type(error)) or type(error).__name__
    text = " ".join(str(error).split())[:200]
    return text if re.match(r"[A-Z]{3,} ", text) else f"{code} {text}".rstrip()


class Breaker:
    """A circuit breaker: lets all calls through while Redis answers, and after a failure one call at the end of each window.

    An urgent call need not wait for the end of the first window, because a single failure may only have been a lost packet, or a Redis
    that was forking. Each call that is let through gets a ticket. A failure counts only if the state has not changed since its ticket
    was given, so that sixteen threads that fail together count as one failure.

    Attributes:
        reason: the last failure; ``None`` while Redis answers
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self._lock = RLock()
        self._ticket = 0  # the one that is given now; another one after each change of the state
        self._probing = False  # whether a call has been let through during the outage, and is not over yet
        self._window = 0.0  # seconds; 0 while Redis answers
        self._next = 0.0  # when the window ends, by the monotonic clock

    def enter(self, *, urgent: bool) -> int | None:
        """A ticket for a call; ``None`` if Redis must not be tried now."""
        with self._lock:
            if self.reason is not None:
                early = time.monotonic() < self._next and not (urgent and self._window == FIRST_WINDOW)
                if self._probing or early:
                    return None
                self._probing = True
                self._ticket += 1
            return self._ticket

    def succeed(self) -> None:
        """Redis has answered, whatever it said."""
        with self._lock:
            if self.reason is not None:
                self.reason = None
                self._window = 0.0
                self._probing = False
                self._ticket += 1

    def fail(self, ticket: int, reason: Exception) -> None:
        """Redis has not answered."""
        with self._lock:
            if ticket == self._ticket:
                self.reason = reason
                self._window = min(LAST_WINDOW, self._window * 2 or FIRST_WINDOW)
                self._next = time.monotonic() + min(LAST_WINDOW, self._window * random.uniform(1 - JITTER, 1 + JITTER))
                self._probing = False
                self._ticket += 1

    def leave(self, ticket: int) -> None:
        """The call is over. If it was cancelled it has found out nothing, so the next call may try."""
        with self._lock:
            if ticket == self._ticket:
                self._probing = False


class DropCounter:
    """Counts the events that are dropped, and logs that once at the beginning of an outage and once at its end.

    Attributes:
        dropped: how many there were in this process
    """

    def __init__(self, on_drop: DropCallback | None = None) -> None:
        self.dropped = 0
        self._on_drop = on_drop
        self._lock = RLock()
        self._unreported = 0
        self._outage = False
        self._reported_at = -QUIET

    def drop(self, channel: str, type: str, reason: Exception) -> None:
        """Count an event that was not recorded, as far as is known."""
        with self._lock:
            self.dropped += 1
            self._unreported += 1
            begins = not self._outage and time.monotonic() - self._reported_at >= QUIET
            if begins:
                self._outage = True
                self._reported_at = time.monotonic()
        if begins:
            logger.warning("Redis takes no events, they are dropped: %s", describe(reason))
        if self._on_drop is not None:
            try:
                self._on_drop(channel, type, reason)
            except Exception:  # a worker's job must not fail because of this
                logger.exception("on_drop failed")

    def recover(self, ending: str = "Redis takes events again") -> None:
        """End the outage, if there is one, because an event was recorded or the publisher is closed."""
        if not self._outage:
            return
        with self._lock:
            ends, count = self._outage, self._unreported
            self._outage = False
            self._unreported = 0
        if ends:
            logger.warning("%s, events dropped: %d", ending, count)
