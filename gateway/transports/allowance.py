"""Allowance: how much one client may ask for, as a bucket that fills again with time."""

from __future__ import annotations

from gateway.errors import TooMany


class Allowance:
    """One bucket.

    Args:
        now: the loop's time
        what: it is that is counted, for an error
        at_once: how many of them the bucket holds
        per_second: how many come back in a second
    """

    __slots__ = ("_at", "_at_once", "_left", "_per_second", "_what")

    def __init__(self, now: float, what: str, at_once: float, per_second: float) -> None:
        self._what = what
        self._at_once = at_once
        self._per_second = per_second
        self._left = at_once
        self._at = now

    def take(self, now: float, count: int = 1) -> None:
        """
        Raises:
            TooMany: if there are not so many in the bucket.
        """
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < count:
            raise TooMany(f"more than {self._per_second:.0f} {self._what} a second")
        self._left -= count
