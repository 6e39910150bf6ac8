"""Page: the result of one read of a channel's log, and where events are missing from it.

Three things show what is missing: each log entry names the id that precedes it, the channel's newest id is stored apart from the log,
and Redis keeps *floors*, which are ids at which it may have lost data. From them a reader at any cursor can see every gap, and never
sees one where nothing can be missing. With short ids, a reader at 10 whom Redis answers with the entries 20 (after 10), 40 (after 30) and
60 (after 40), a floor at 50 and 70 as the channel's newest id is given:

    item  its place  cursor after it  because
    20    20         20               it comes after 10
    gap   21         30               40 comes after 30, which was trimmed
    40    40         40
    gap   41         50               there is a floor between 40 and 60
    60    60         60
    gap   61         70               the log ends before 70
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from gateway.core.event import Event

Since = int | Literal["last", "now"]
"""Where a reader of a channel begins: after an id (0: the whole log), with the newest event (``last``), or after it (``now``)."""

EARLIEST: Final = 1_700_000_000_000_000
"""No real id is smaller, because this moment is before the software was written. A smaller cursor only means "from the beginning": its
reader has not seen anything that Redis could have lost."""

MAX_FLOORS: Final = 32  # that publish.lua keeps


class Entry(msgspec.Struct, frozen=True):
    """One entry of a log. ``event`` is ``None`` if it cannot be delivered; its place in the chain of ids still counts."""

    id: int
    before: int
    event: Event | None


class Answer(msgspec.Struct):
    """Redis's answer to one read of a channel's log (read.lua).

    Attributes:
        clock: the newest id of all channels
        floors: ids at which Redis may have lost data, rising
        newest: the id of the channel's newest event; 0 if that is not known
        final: whether that event is final
        more: whether the log goes on after these entries
        entries: those after the cursor, oldest first
        next_entry: the id of the first entry that was left out, and the id before it; ``None`` if that was not looked up
    """

    clock: int
    floors: tuple[int, ...]
    newest: int
    final: bool
    more: bool
    entries: list[Entry]
    next_entry: tuple[int, int] | None = None

    @property
    def floor(self) -> int:
        """The newest floor, 0 if there is none."""
        return self.floors[-1] if self.floors else 0


class Item(NamedTuple):
    """One thing to deliver: an event, or a gap (``event`` is ``None``).

    Attributes:
        id: its place in the order of delivery over all channels. A gap stands right after the reader's cursor: an SSE client has one
            cursor for all its channels, and if an event of another channel came first, that cursor could pass over the gap for good
        position: the reader's cursor after it
    """

    id: int
    event: Event | None
    position: int


class Page(msgspec.Struct):  # a Struct, because msgspec creates it in C and every new client needs one
    """An answer as seen by a reader at one cursor.

    Attributes:
        items: what to deliver, rising by id
        position: the reader's cursor after all items
        horizon: up to this id nothing is missing from the items
        complete: whether the items reach the end of the log
        final: whether the channel's newest event is final, and the reader has it after this page
        size: bytes of JSON in the items
        clock: the newest id of all channels that Redis knew of
        heard: the newest id announced on the channel before the log was read: the page covers all announcements up to it
    """

    items: list[Item]
    position: int
    horizon: int
    complete: bool
    final: bool
    size: int
    clock: int
    heard: int = 0


def _crossed(floors: Iterable[int], position: int, end: int) -> int:
    """The last floor between two places of a reader, 0 for none. Events may be lost there even if the chain of ids is whole."""
    return max((floor for floor in floors if position < floor <= end), default=0) if position >= EARLIEST else 0


def _walk(cursor: int, answer: Answer) -> tuple[list[Item], int]:
    """The items for a reader at this cursor, with a gap wherever something is missing, and the cursor after them."""
    if cursor > answer.clock:
        # The reader has an id that Redis does not know, so Redis has lost its newest data. If it has lost all, the cursor stays as
        # it is: a cursor of 0 would mean that the reader has seen nothing and can miss nothing.
        position = answer.clock or cursor
        return [Item(answer.clock, None, position)], position
    items: list[Item] = []
    position = cursor
    floors = [floor for floor in answer.floors if floor > cursor]
    if len(floors) == MAX_FLOORS:
        floors.insert(0, cursor + 1)  # older floors may have been dropped from the list, so there may be a gap right here
    for entry in answer.entries:
        if not position < entry.id <= answer.clock:
            continue  # not written by publish.lua, whose ids rise and never exceed the clock
        gone = max(entry.before, _crossed(floors, position, entry.id)) if floors else entry.before  # the last id missing before it
        if gone > position:
            items.append(Item(position + 1, None, min(gone, entry.id - 1)))
        if entry.event is not None:
            items.append(Item(entry.id, entry.event, entry.id))
        position = entry.id
    if not answer.more:
        gone = max(answer.newest, _crossed(floors, position, answer.floor))
        if gone > position:
            items.append(Item(position + 1, None, gone))
        # The reader has everything now. Its cursor moves up to the last floor, so that it is told of any loss after that one.
        position = max(position, gone, answer.floor)
    return items, position


def _reach(answer: Answer, position: int) -> int:
    """The id up to which nothing is missing from the answer."""
    if not answer.more:
        return max(answer.clock, position)
    if answer.next_entry is None:
        return position
    id, before = answer.next_entry
    # If there is a gap before the next entry it comes first in the next page, and events of other channels must not overtake it.
    is_next = before <= position < id <= answer.clock and not any(position < floor <= id for floor in answer.floors)
    return id - 1 if is_next else position


def _begin(since: Literal["last", "now"], answer: Answer) -> tuple[list[Item], int]:
    """The items for a reader without a cursor, and its cursor after them."""
    items = [Item(entry.id, entry.event, entry.id) for entry in answer.entries if entry.event is not None] if answer.entries else []
    if not answer.newest and since == "now":
        return items, answer.clock  # not the floor: the log may hold events above it even if the channel's newest id has been lost
    # All readers of a channel without events get the same cursor, the floor, so that they can share later reads.
    return items, max(answer.newest, answer.floor) or answer.clock


def make_page(since: Since, answer: Answer) -> Page:
    """The answer as seen by a reader that begins there."""
    items, position = _walk(since, answer) if isinstance(since, int) else _begin(since, answer)
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
    """Whether the page has a gap beyond this id."""
    return any(item.event is None and item.id > horizon for item in page.items)


def end_of_turn(items: Iterable[Item], most: int) -> int | None:
    """The id up to which to deliver these items, which rise by id, in one turn; ``None`` if all of them fit.

    The turn ends with the event that reaches ``most`` bytes.
    """
    size = 0
    for item in items:
        if size >= most:
            return item.id - 1
        size += len(item.event.json) if item.event is not None else 0
    return None
