"""A reader: where one client stands on one channel, and whether what it is sent keeps the gateway's guarantees.

It checks the rules of tests/faults/oracle.py that can be decided when an event arrives: each acknowledged event arrives, or
a gap notice before any later event; ids rise; no event comes twice.
"""

from __future__ import annotations

from typing import Final

from loadtest.ledger import Ledger

END: Final = 2**62


class Reader:
    """One client on one channel.

    Attributes:
        position: the id up to which it has received everything; ``None`` until the gateway has said where it begins
    """

    def __init__(self, ledger: Ledger, position: int | None) -> None:
        self.position = position
        self._ledger = ledger
        self._gap = False

    def begin(self, cursor: int) -> None:
        """Take the cursor of the first ready notice as the position, if there is none yet."""
        if self.position is None:
            self.position = cursor

    def gap(self) -> None:
        """Note a gap notice."""
        self._gap = True

    def answered(self) -> None:
        """Note the end of a long-polling answer, beyond which its gap notice does not count."""
        self._gap = False

    def take(self, id: int, *, alone: bool = True) -> tuple[bool, int]:
        """Take an event that arrived.

        Args:
            alone: whether a gap notice covers only the events right before this one, as on a stream; a long-polling answer
                names its gaps apart from its events, so there it covers any place in the answer

        Returns:
            whether it is a duplicate or out of order, and how many events before it were lost
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
        """How many acknowledged events have not arrived yet."""
        return 0 if self._gap or self.position is None else self._ledger.missing(self.position, END)
