"""A reader: where one client stands on one channel, and what is wrong with what it was sent.

It goes by the rules of tests/faults/oracle.py, as far as they can be judged at the moment an event comes: each acknowledged
event arrives, or a gap notice before any later one; ids rise; none comes twice.
"""

from __future__ import annotations

from typing import Final

from loadtest.ledger import Ledger

END: Final = 2**62


class Reader:
    """One client on one channel.

    Attributes:
        position: the id up to which it has everything; ``None`` until the gateway has said where it begins
    """

    def __init__(self, ledger: Ledger, position: int | None) -> None:
        self.position = position
        self._ledger = ledger
        self._gap = False

    def begin(self, cursor: int) -> None:
        """The gateway says where the client stands."""
        if self.position is None:
            self.position = cursor

    def gap(self) -> None:
        """The client was told that something is gone."""
        self._gap = True

    def answered(self) -> None:
        """An answer of long polling is at its end, and its gap with it."""
        self._gap = False

    def take(self, id: int, *, alone: bool = True) -> tuple[bool, int]:
        """An event came.

        Args:
            alone: whether a gap stands for this place only, rather than for anywhere in an answer of several events

        Returns:
            whether it has come before (or out of order), and how many events before it are lost
        """
        position = id - 1 if self.position is None else self.position
        if id <= position:
            return True, 0
        lost = 0 if self._gap else self._ledger.missing(position, id)
        if alone:
            self._gap = False
        self.position = id
        return False, lost

    def behind(self) -> int:
        """How many events it has still to get."""
        return 0 if self._gap or self.position is None else self._ledger.missing(self.position, END)
