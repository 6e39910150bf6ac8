"""The ledger of one channel: the events whose recording was acknowledged to their publisher, against which readers are checked.

A publisher sends one event at a time, and the next only once it knows the outcome of the one before. So when a reader
receives an event, the ledger holds every acknowledged event before it on that channel.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

REMEMBERED: Final = 20_000  # events: far more than a log keeps (100 by default), so a reader further behind gets a gap notice anyway


class Ledger:
    """The acknowledged events of one channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._ids: list[int] = []
        self._labels: list[str | None] = []
        self._superseded: list[bool] = []

    @property
    def last(self) -> int:
        """The newest id, 0 if there is none."""
        return self._ids[-1] if self._ids else 0

    def begin(self, label: str | None = None) -> None:
        """Note that an event is about to be published with this COLLAPSE label, ``None`` for none.

        Even if no acknowledgement follows, it may have replaced the event before it in the log, if that has the same label.
        """
        if label is not None and self._labels and self._labels[-1] == label:
            self._superseded[-1] = True

    def acknowledge(self, id: int, label: str | None = None) -> None:
        """Note that the event is recorded."""
        self._ids.append(id)
        self._labels.append(label)
        self._superseded.append(False)
        if len(self._ids) > 2 * REMEMBERED:
            for column in (self._ids, self._labels, self._superseded):
                del column[:REMEMBERED]

    def missing(self, after: int, before: int) -> int:
        """How many acknowledged events lie between two ids, without those that a later one replaced in the log."""
        low, high = bisect_right(self._ids, after), bisect_right(self._ids, before - 1)
        return sum(not superseded for superseded in self._superseded[low:high])
