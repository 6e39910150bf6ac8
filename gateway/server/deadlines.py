"""Deadlines: one timer for all connections that have the same time to do something.

A timer for each connection would be set and cancelled for every request's head, which costs a handshake 3 us. Here a connection is only
an entry in a dictionary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Who = TypeVar("Who")


class Deadlines(Generic[Who]):
    """Those who must do something within so many seconds. As the time is the same for all, the first to be added is the first to be late.

    Args:
        loop: whose clock is used
        seconds: how long each has
        late: called with each one that was not removed in time, and with this object
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[Who, Deadlines[Who]], None]) -> None:
        self.seconds = seconds
        self._loop = loop
        self._late = late
        self._due: dict[Who, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, who: Who) -> None:
        """Start the time of one, or start it again."""
        self._due.pop(who, None)  # so that it goes to the end
        self._due[who] = due = self._loop.time() + self.seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._expire)

    def remove(self, who: Who) -> None:
        """Stop the time of one, which has done its part or is gone."""
        self._due.pop(who, None)

    def _expire(self) -> None:
        now = self._loop.time()
        try:
            while self._due and self._due[who := next(iter(self._due))] <= now:
                del self._due[who]
                self._late(who, self)
        finally:
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._expire) if self._due else None
