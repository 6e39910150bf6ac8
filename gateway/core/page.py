"""Page: what one read of a channel's log brought, and where something is missing in it.

A log entry names the id before it, the log its newest event, and Redis the floors below which it may have lost data. From
these three a reader at any cursor sees each hole, and no hole where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from gateway.core.event import Event

Since = int | Literal["last", "now"]
"""Where a channel's reader begins: after an id (0: the whole log), at the newest event, or behind it."""

EARLIEST: Final = 1_700_000_000_000_000
"""No id is older than this software: a smaller cursor was made up to say "all", and has lost nothing with Redis's data."""

MOST_FLOORS: Final = 32  # of publish.lua


class Entry(msgspec.Struct, frozen=True):
    """One entry of a log. ``event`` is ``None`` for one that cannot be delivered; its place in the order still counts."""

    id: int
    before: int
    event: Event | None


class Answer(msgspec.Struct):
    """What Redis says to one read; see read.lua.

    Attributes:
        following: the id of the entry behind the last one, and the id before it, if that is known
    """

    clock: int
    floors: tuple[int, ...]
    newest: int
    final: bool
    more: bool
    entries: list[Entry]
    following: tuple[int, int] | None = None

    @property
    def floor(self) -> int:
        """The newest floor, 0 if there is none."""
        return self.floors[-1] if self.floors else 0


class Item(NamedTuple):
    """One thing to deliver: an event, or a gap (``event`` is ``None``).

    Attributes:
        id: its place in the order over all channels. A gap's place is where the reader stands: told any later, an event of
            another channel could carry a client's one cursor over what is missing here, and nobody would ever tell
        position: the reader's cursor behind it
    """

    id: int
    event: Event | None
    position: int


class Page(msgspec.Struct):  # a structure: made in C, each client that comes costs one
    """The answer as a reader at one cursor takes it.

    Attributes:
        items: what to deliver, rising by id
        position: the reader's cursor after all items
        horizon: up to this id nothing is missing from the items
        complete: whether the items reach the end of the log
        final: whether the channel's newest event is final, and the reader has it after this page
        size: bytes of JSON in the items
        clock: the newest id that Redis knew of
        heard: what had been announced on the channel when the log was asked: so far the page covers it, whatever it holds
    """

    items: list[Item]
    position: int
    horizon: int
    complete: bool
    final: bool
    size: int
    clock: int
    heard: int = 0


def _walk(cursor: int, answer: Answer) -> tuple[list[Item], int]:
    """Go through the entries after the cursor and put a gap wherever the chain of ids has a hole."""
    if cursor > answer.clock:
        # An id that Redis does not know of: it lost the newest part of its data. Who has read a Redis that knows of none keeps
        # the cursor, for 0 would say that there is nothing to miss.
        position = answer.clock or cursor
        return [Item(answer.clock, None, position)], position
    items: list[Item] = []
    position = cursor
    floors = [floor for floor in answer.floors if floor > cursor]
    if len(floors) == MOST_FLOORS:
        floors.insert(0, cursor + 1)  # there may have been others before these, nobody knows where: they are told at once

    def crossed(end: int) -> int:
        """The last floor between the position and this id: something may have been lost there, whatever the chain of ids says."""
        return max((floor for floor in floors if position < floor <= end), default=0) if position >= EARLIEST else 0

    for entry in answer.entries:
        if not position < entry.id <= answer.clock:
            continue  # not of publish.lua's making: its ids rise, and the clock knows them
        if (gone := max(entry.before, crossed(entry.id)) if floors else entry.before) > position:
            items.append(Item(position + 1, None, min(gone, entry.id - 1)))
        if entry.event is not None:
            items.append(Item(entry.id, entry.event, entry.id))
        position = entry.id
    if not answer.more:
        if (gone := max(answer.newest, crossed(answer.floor))) > position:
            items.append(Item(position + 1, None, gone))
        # From now on the reader has all, and must hear of it if Redis loses its data again.
        position = max(position, gone, answer.floor)
    return items, position


def _reach(answer: Answer, position: int) -> int:
    """Up to which id nothing is missing from the entries."""
    if not answer.more:
        return max(answer.clock, position)
    if answer.following is None:
        return position
    id, before = answer.following
    # A gap is told where the reader stands, so nothing of another channel may be ahead of it.
    is_next = before <= position < id <= answer.clock and not any(position < floor <= id for floor in answer.floors)
    return id - 1 if is_next else position


def make_page(since: Since, answer: Answer) -> Page:
    """The answer as seen from where the reader stands."""
    if isinstance(since, int):
        items, position = _walk(since, answer)
    else:
        items = [Item(entry.id, entry.event, entry.id) for entry in answer.entries if entry.event is not None] if answer.entries else []
        # A channel without events has one place for all who come, the floor, so that they share their reads later. Except
        # for "now": if it is only its newest id that is gone, there are events above the floor.
        position = (max(answer.newest, answer.floor) if answer.newest or since == "last" else 0) or answer.clock
    return Page(
        items=items,
        position=position,
        horizon=_reach(answer, position),
        complete=not answer.more,
        final=answer.final and not answer.more,
        size=sum(len(item.event.json) for item in items if item.event is not None) if items else 0,
        clock=answer.clock,
    )


def has_gap(page: Page, horizon: int) -> bool:
    """Whether a gap beyond this id is to be told."""
    return any(item.event is None and item.id > horizon for item in page.items)


def end_of_turn(items: Iterable[Item], most: int) -> int | None:
    """Up to which id to deliver these, rising by id, so that it is not more than so many bytes and an event; ``None`` for all of them."""
    size = 0
    for item in items:
        if size >= most:
            return item.id - 1
        size += len(item.event.json) if item.event is not None else 0
    return None
