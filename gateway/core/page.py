"""Page: what one read of a channel's log brought, and where something is missing in it.

A log entry names the id before it, the log its newest event, and Redis the floor below which it may have lost data. From
these three a reader at any cursor sees each hole, and no hole where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gateway.core.event import Event

Since = int | Literal["last", "now"]
"""Where a channel's reader begins: after an id (0: the whole log), at the newest event, or behind it."""

EARLIEST: Final = 1_700_000_000_000_000
"""No id is older than this software: a smaller cursor was made up to say "all", and has lost nothing with Redis's data."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log. ``event`` is ``None`` for one that cannot be delivered; its place in the order still counts."""

    id: int
    before: int
    event: Event | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What Redis says to one read; see read.lua."""

    clock: int
    floor: int
    newest: int
    final: bool
    more: bool
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Page:
    """The answer as a reader at one cursor takes it.

    Attributes:
        items: what to deliver, rising by id; a gap is ``None`` at the id of what follows it
        position: the reader's cursor after all items
        horizon: up to this id nothing is missing from the items
        complete: whether the items reach the end of the log
        final: whether the channel's newest event is final, and the reader has it after this page
        size: bytes of JSON in the items
    """

    items: list[tuple[int, Event | None]]
    position: int
    horizon: int
    complete: bool
    final: bool
    size: int


def _walk(cursor: int, answer: Answer) -> tuple[list[tuple[int, Event | None]], int]:
    """Go through the entries after the cursor and put a gap wherever the chain of ids has a hole."""
    items: list[tuple[int, Event | None]] = []
    position = cursor

    def floor_between(position: int, end: int) -> bool:
        return EARLIEST <= position < answer.floor <= end

    if cursor > answer.clock:
        # An id that Redis does not know of: it lost the newest part of its data.
        return [(answer.clock, None)], answer.clock
    for entry in answer.entries:
        if not position < entry.id <= answer.clock:
            continue  # not of publish.lua's making: its ids rise, and the clock knows them
        if entry.before > position or floor_between(position, entry.id):
            items.append((entry.id, None))
        if entry.event is not None:
            items.append((entry.id, entry.event))
        position = entry.id
    if not answer.more:
        end = max(answer.newest, answer.floor if floor_between(position, answer.floor) else 0)
        if end > position:
            items.append((end, None))
            position = end
    return items, position


def make_page(since: Since, answer: Answer) -> Page:
    """The answer as seen from where the reader stands."""
    if isinstance(since, int):
        items, position = _walk(since, answer)
    else:
        items = [(entry.id, entry.event) for entry in answer.entries if entry.event is not None]
        position = max(answer.newest, answer.floor) if answer.newest else answer.clock
    return Page(
        items=items,
        position=position,
        horizon=position if answer.more else max(answer.clock, position),
        complete=not answer.more,
        final=answer.final and not answer.more,
        size=sum(len(event.json) for _, event in items if event is not None),
    )
