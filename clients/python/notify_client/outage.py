"""While Redis is away: when to try it again, and how many events were dropped.

Both parts are used from many threads at once, do no I/O and never wait.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError

FIRST_WINDOW: Final = 0.5
LAST_WINDOW: Final = 5.0
JITTER: Final = 0.25  # a thousand workers must not all come back in the same moment
QUIET: Final = 5.0  # seconds between two reports, for a Redis that comes and goes with every event

DropCallback = Callable[[str, str, Exception], None]
"""Called with channel, type and reason of each event that was dropped."""

logger: Final = logging.getLogger("notify_client")

# redis-py takes these codes off the message, and before version 7 kept them nowhere else.
_CODES: Final[dict[type[Exception], str]] = {
    AuthenticationError: "NOAUTH",
    BusyLoadingError: "LOADING",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
}


def describe(error: Exception) -> str:
    """The error in one line: the server's own code and words, or what kind of failure it was."""
    code = getattr(error, "status_code", None) or _CODES.get(type(error)) or type(error).__name__
    text = " ".join(str(error).split())[:200]
    return text if re.match(r"[A-Z]{3,} ", text) else f"{code} {text}".rstrip()


class Breaker:
    """Lets calls through while Redis answers; after a failure, one call at the end of each window.

    An urgent call need not wait for the end of the first one: a single failure may have been a lost packet, or a Redis that
    forked. A call that enters gets a ticket. Tickets of before the last change of state are out of date, so that the sixteen
    threads that fail in one hang count as one failure.
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self._lock = Lock()
        self._ticket = 0
        self._probing = False
        self._window = 0.0
        self._next = 0.0

    def enter(self, *, urgent: bool) -> int | None:
        """A ticket for a call, or ``None`` if it is not the time to try."""
        with self._lock:
            if self.reason is not None:
                early = time.monotonic() < self._next and not (urgent and self._window == FIRST_WINDOW)
                if self._probing or early:
                    return None
                self._probing = True
                self._ticket += 1
            return self._ticket

    def succeed(self) -> None:
        """Redis answered, whatever it said."""
        with self._lock:
            if self.reason is not None:
                self.reason = None
                self._window = 0.0
                self._probing = False
                self._ticket += 1

    def fail(self, ticket: int, reason: Exception) -> None:
        """Redis did not answer."""
        with self._lock:
            if ticket == self._ticket:
                self.reason = reason
                self._window = min(LAST_WINDOW, self._window * 2 or FIRST_WINDOW)
                self._next = time.monotonic() + min(LAST_WINDOW, self._window * random.uniform(1 - JITTER, 1 + JITTER))
                self._probing = False
                self._ticket += 1

    def leave(self, ticket: int) -> None:
        """The call is over. One that was cancelled has learnt nothing: the next one probes."""
        with self._lock:
            if ticket == self._ticket:
                self._probing = False


class Ledger:
    """Counts the events that were dropped, and says so once at the beginning of an outage and once at its end."""

    def __init__(self, on_drop: DropCallback | None = None) -> None:
        self.dropped = 0
        self._on_drop = on_drop
        self._lock = Lock()
        self._unreported = 0
        self._outage = False
        self._reported_at = -QUIET

    def drop(self, channel: str, type: str, reason: Exception) -> None:
        """An event was not recorded, as far as is known."""
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
            except Exception:  # a worker is not to fail for its own bookkeeping
                logger.exception("on_drop failed")

    def recover(self, ending: str = "Redis takes events again") -> None:
        """An event was recorded, or nothing more will come: end the outage, if there is one."""
        if not self._outage:
            return
        with self._lock:
            ends, count = self._outage, self._unreported
            self._outage = False
            self._unreported = 0
        if ends:
            logger.warning("%s, events dropped: %d", ending, count)
