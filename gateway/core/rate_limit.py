"""RateLimit: how many things one client may do in a while, as a bucket that refills with time."""

from __future__ import annotations

from gateway.errors import TooMany


class RateLimit:
    """One bucket, full at first.

    Args:
        now: the event loop's time
        what: the plural name of what is counted, for the error
        at_once: how many the bucket holds
        per_second: how many are refilled in a second
    """

    __slots__ = ("_at", "_at_once", "_left", "_per_second", "_what")

    def __init__(self, now: float, what: str, at_once: float, per_second: float) -> None:
        self._what = what
        self._at_once = at_once
        self._per_second = per_second
        self._left = at_once
        self._at = now

    def take(self, now: float, count: int = 1) -> None:
        """Take this many out of the bucket.

        Raises:
            TooMany: if there are fewer in it. Then none is taken.
        """
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < count:
            raise TooMany(f"more than {self._per_second:.0f} {self._what} a second")
        self._left -= count
