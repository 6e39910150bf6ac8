"""The ledger of one channel: what its publisher was told is recorded.

The publisher goes one event at a time: it begins the next when it knows what became of the one before. So when a reader
gets an event, all that came before it on the channel is in the ledger.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

REMEMBERED: Final = 20_000  # events; a log keeps 100 unless told otherwise, so whoever is further behind is told of a gap


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
        """Note an event before it is sent.

        From now on it may take the place of the one before in the log, if that has the same label.
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
        """How many events between two ids a reader has to get, or be told of a gap."""
        low, high = bisect_right(self._ids, after), bisect_right(self._ids, before - 1)
        return sum(not superseded for superseded in self._superseded[low:high])
