"""Subscription: one client's cursors, its queue, and whether it is behind.

A subscription is *live* or *behind*, and the client's cursors alone decide. Live: each event that follows a cursor is written
at once (by the hub, which holds the loop). Behind: nothing is written but what is read from the log, in these steps:

    fall_behind()   something may have been missed, the writer is full, or channels were added; ``on_behind`` is called
    begin_read()    from now on announcements are queued, within a bound
    end_read()      the pages are delivered in order of id, then the queue by the rule for live events; live again if it fits

Events of several channels leave in the order of their ids, because an SSE client has one cursor for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.cursor import Cursor, has_missed, is_unread
from gateway.core.notices import Ref, notice, ready
from gateway.core.page import EARLIEST, Item, Page, end_of_turn, has_gap

if TYPE_CHECKING:
    from gateway.core.event import Event, Wire

QUEUE_BYTES: Final = 262_144
TURN_BYTES: Final = 262_144  # that one read delivers, and an event more: each page may hold an event of the largest


@dataclass(slots=True, eq=False)
class Written:
    """What clients of one wire were sent: events, their bytes, gap notices; and events that were dropped because they had them."""

    events: int = 0
    bytes: int = 0
    gaps: int = 0
    duplicates: int = 0


NOWHERE: Final = Written()
_position: Final = attrgetter("position")


class Subscription(msgspec.Struct, eq=False):  # a structure: made in C, each client has one
    """One client.

    Attributes:
        wire: the form its bytes take
        write: takes bytes of that form; never blocks, never fails
        on_behind: called when the log must be read
        on_done: called when ``until_final`` is fulfilled
        on_failed: called when reading for it failed for good
        full: whether the writer holds as much as it may; set by ``pause`` and ``resume``
        greeting: what has to be written before anything else; it waits for that, so that both go in one write
        wanted: the next read is of use only if it reaches to this id
        written: the account of all clients of its wire; the hub gives it
    """

    wire: Wire
    write: Callable[[bytes], object]
    on_behind: Callable[[Subscription], None]
    on_done: Callable[[], object]
    on_failed: Callable[[], object]
    until_final: bool = False
    greeting: bytes = b""
    cursors: dict[str, Cursor] = {}
    live: bool = True
    full: bool = False
    reading: bool = False  # a task of the feed is at work for this client
    closed: bool = False
    wanted: int = 0
    written: Written = NOWHERE
    _queue: list[tuple[Cursor, Event]] | None = None
    _queued: int = 0
    _waited: bool = False  # all logs were read to their ends, at different moments
    _expecting: tuple[tuple[Ref, list[Cursor]], ...] = ()
    _placed: bool = False  # the client has an id to come back with

    # What the client asks for

    def expect(self, ref: Ref, cursors: list[Cursor]) -> None:
        """Add channels; once all of their log was read a ready notice follows."""
        for cursor in cursors:
            self.cursors[cursor.channel.name] = cursor
            self._placed |= cursor.position >= EARLIEST
        self._expecting += ((ref, cursors),)
        self._stop_live()

    def forget(self, cursor: Cursor) -> None:
        """Take a channel out."""
        cursor.live = False
        self.cursors.pop(cursor.channel.name, None)
        for _, cursors in self._expecting:
            if cursor in cursors:
                cursors.remove(cursor)

    # What the writer says

    def pause(self) -> None:
        """The writer is full: the client is behind until ``resume``."""
        self.full = True
        self.fall_behind()

    def resume(self) -> None:
        """The writer has room again."""
        self.full = False
        if not self.live:
            self.on_behind(self)

    # Live, or behind

    def fall_behind(self) -> None:
        """Something may be missing, on any channel: read all of them."""
        for cursor in self.cursors.values():
            cursor.unread = True
        self._stop_live()

    def _stop_live(self) -> None:
        self.live = False
        self._waited = False
        self._queue = None
        for cursor in self.cursors.values():
            cursor.live = False
        if not self.full and not self.closed:
            self.on_behind(self)

    def miss(self, cursor: Cursor, event: Event) -> None:
        """Take an announcement that the hub could not write at once."""
        if self._queue is not None:
            self._queued += len(event.json)
            if self._queued > QUEUE_BYTES:
                # Given up, not grown: the channel has been heard of further than this read reaches, so it is read again.
                self._queue.clear()
            else:
                self._queue.append((cursor, event))
        elif self.live:
            self._offer(cursor, event)

    def _offer(self, cursor: Cursor, event: Event) -> None:
        if event.before <= cursor.position < event.id or not event.id:
            cursor.position = max(cursor.position, event.id)
            self._write(event)
            if event.final:
                cursor.done = True
        elif event.id > cursor.position:
            self.fall_behind()
        else:
            self.written.duplicates += 1

    def _write(self, event: Event) -> None:
        data = event.encode(self.wire)
        self.write(data)
        self.written.events += 1
        self.written.bytes += len(data)

    # Reading the log

    @property
    def unread(self) -> list[Cursor]:
        """The cursors whose log is to be read."""
        return list(filter(is_unread, self.cursors.values()))

    def begin_read(self) -> None:
        """From now on announcements are queued: what the read does not bring, they do."""
        self._queue = []
        self._queued = 0
        for cursor in self.cursors.values():
            cursor.announced = cursor.channel.heard

    def end_read(self, pages: Mapping[Cursor, Page], heard: int) -> None:
        """Deliver what was read and what was queued meanwhile, and go live if nothing is missing.

        Args:
            pages: what was read for each unread cursor
            heard: the newest id announced to this process on any channel
        """
        # What is written goes in one go: each write of its own is 4 us of the kernel's (loadtest/experiments/joined-writes).
        write, parts = self.write, list[bytes]()
        self.write = parts.append
        self.greet()
        try:
            self._end_read(pages, heard)
        finally:
            self.write = write
            for data in self.wire.join(parts):
                write(data)

    def _end_read(self, pages: Mapping[Cursor, Page], heard: int) -> None:
        pages = {cursor: page for cursor, page in pages.items() if self.cursors.get(cursor.channel.name) is cursor}
        fell_behind = self._queue is None  # while the read was under way
        # If it did as the connection to Redis was lost, what was heard since then says nothing of a page that was read before.
        finished = self._deliver(pages, 0 if fell_behind else heard)
        if fell_behind:
            self.fall_behind()  # what was read is delivered, the rest is read again
            return
        self._tell_ready()
        if finished:
            self._go_live()
        self.check_done()

    def _deliver(self, pages: Mapping[Cursor, Page], heard: int) -> bool:
        """Write what was read in order of id, as far as all pages reach; whether that is all of it."""
        # The channels were read at different moments. What one page holds beyond the earliest of them might overtake an
        # event of another channel.
        horizon = min([cursor.horizon(page, heard) for cursor, page in pages.items()], default=0)
        items = [(item, cursor) for cursor, page in pages.items() if page.items for item in page.items if item.id <= horizon]
        if len(items) > 1:
            items.sort(key=lambda pair: (pair[0].id, pair[0].event is not None, pair[1].channel.name))
        large = len(items) > 1 and sum([page.size for page in pages.values()]) > TURN_BYTES
        stop = end_of_turn([item for item, _ in items], TURN_BYTES) if large else None
        if stop is not None:
            horizon, self.wanted = stop, 0
        for item, cursor in items:
            if item.id > horizon:
                break
            self._deliver_one(item, cursor)
        finished = stop is None and self._is_finished(pages.values(), horizon)
        for cursor, page in pages.items():
            cursor.follow(page, horizon, finished=finished)
        return finished

    def _deliver_one(self, item: Item, cursor: Cursor) -> None:
        if item.event is None:
            self.written.gaps += 1
            self.notice("gap", {"channel": cursor.channel.name})
        else:
            self._write(item.event)
            self._placed = True
            cursor.done |= item.event.final
        cursor.position = item.position

    def _is_finished(self, pages: Collection[Page], horizon: int) -> bool:
        self.wanted = 0
        complete = True
        for page in pages:
            if page.position > horizon:
                self.wanted = max(self.wanted, page.position)
            complete &= page.complete
        if not complete:
            return False
        if self.wanted and not self._waited:
            self._waited = True
            return False
        # What lies beyond the horizon now was published since. It comes by announcement, from the queue or soon. A gap does not.
        if self.wanted and any(has_gap(page, horizon) for page in pages):
            return False
        self.wanted = 0
        self._waited = False
        return True

    def _tell_ready(self) -> None:
        if not self._expecting:
            return
        expecting, self._expecting = self._expecting, ()
        for ref, cursors in expecting:
            if any(map(is_unread, cursors)):
                self._expecting += ((ref, cursors),)
                continue
            # An SSE client that comes back before its first event would begin anew, so ready is where it gets its cursor. All
            # channels were delivered in order of id: where one of them stands, nothing of the others is missing.
            id = 0 if self._placed else max(map(_position, self.cursors.values()), default=0)
            self.write(self.wire.notice("ready", ready(ref, cursors), id))

    def _go_live(self) -> None:
        queue, self._queue = self._queue, None
        self.live = True
        if queue:
            self._take_queue(queue)
        if self.live and any(map(has_missed, self.cursors.values())):
            self.fall_behind()  # the queue was too small. All channels, to keep their order
        for cursor in self.cursors.values():
            cursor.live = self.live

    def _take_queue(self, queue: list[tuple[Cursor, Event]]) -> None:
        if self.live and any(c.announced > max(c.position, c.covered) for c in self.cursors.values()):
            self.fall_behind()  # announced before the queue was begun, and not in the log when it was read
        for cursor, event in queue:
            if self.live and self.cursors.get(cursor.channel.name) is cursor:
                self._offer(cursor, event)

    # What the client is told

    def greet(self) -> None:
        """Write the greeting, if that was not done yet."""
        if self.greeting:
            greeting, self.greeting = self.greeting, b""
            self.write(greeting)

    def notice(self, name: str, fields: Mapping[str, object], id: int = 0) -> None:
        """Write a notice; with ``id`` as ``Wire.notice`` takes it."""
        self.greet()
        self.write(self.wire.notice(name, notice(name, fields), id))

    def check_done(self) -> None:
        """End the stream if all channels are over and the client wanted no more (``until=final``)."""
        if self.until_final and self.cursors and not self._expecting and all(c.done for c in self.cursors.values()):
            self.on_done()

    @property
    def unanswered(self) -> int:
        """How many ready notices are due."""
        return len(self._expecting)

    def positions(self) -> dict[str, str]:
        """The cursors as the client may hand them back; none for a channel that has not been read yet."""
        return {name: str(cursor.position) for name, cursor in self.cursors.items() if cursor.since is None}
