"""Deadlines: one timer for all connections that have the same time.

A timer of each connection's own, set and cancelled for every head, costs a handshake 3 us; here it is a place in a dictionary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Who = TypeVar("Who")


class Deadlines(Generic[Who]):
    """Those who must have done something within some seconds, the same for all: so the first to come is the first to be late.

    Args:
        late: called with each who was not taken out in time, and this
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[Who, Deadlines[Who]], None]) -> None:
        self.seconds = seconds
        self._loop = loop
        self._late = late
        self._due: dict[Who, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, who: Who) -> None:
        """From now on the time runs."""
        self._due.pop(who, None)  # to the end
        self._due[who] = due = self._loop.time() + self.seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def remove(self, who: Who) -> None:
        """It is done, or gone."""
        self._due.pop(who, None)

    def _look(self) -> None:
        now = self._loop.time()
        try:
            while self._due and self._due[who := next(iter(self._due))] <= now:
                del self._due[who]
                self._late(who, self)
        finally:
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._look) if self._due else None
