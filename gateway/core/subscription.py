"""Subscription: one client's cursors, its queue, and whether it is behind.

While a client is *live*, the hub writes each event that comes next after a cursor at once. In the two other states it has asked for
reads with ``on_behind`` (unless it is ``full`` or ``closed``) and is given nothing but what they bring:

    state     live   _queue  an announcement is        what leads out of it
    live      True   None    written if it comes next  fall_behind(), pause(), add(): behind
    behind    False  None    dropped                   begin_read(): queueing
    queueing  False  a list  queued, within a bound    end_read(): live if nothing is missing; otherwise the feed begins another read
                                                       fall_behind(), pause(), add(): behind; end_read() still delivers its pages

end_read() delivers the pages in order of id, then the queued events, each if it comes next after its cursor. The order of ids holds
over all channels, because an SSE client has one cursor for all of them. But the channels are read at different moments, so what one
page has beyond the reach of the others is held back for one more read (``_waited``), which must come that far (``must_reach``).
A new subscription counts as live, because it has no channels. The states of each cursor are in core/cursor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.cursor import Cursor, has_missed, is_unread
from gateway.core.notices import Ref, notice, ready
from gateway.core.page import Item, Page, end_of_turn, has_gap

if TYPE_CHECKING:
    from gateway.core.event import Event
    from gateway.core.wire import Wire

QUEUE_BYTES: Final = 262_144
TURN_BYTES: Final = 262_144  # delivered after one read, and up to one event more: every page may hold an event of the largest size
NEWEST: Final = 1 << 62  # above all ids


@dataclass(slots=True, eq=False)
class WireStats:
    """What the clients of one wire format were sent. ``duplicates`` counts events that were not written because the client had them."""

    events: int = 0
    bytes: int = 0
    gaps: int = 0
    duplicates: int = 0


UNCOUNTED: Final = WireStats()
_position: Final = attrgetter("position")  # as ``is_unread``


class Subscription(msgspec.Struct, eq=False):  # a Struct, because msgspec creates it in C and every client has one
    """One client.

    Attributes:
        wire: the format of its bytes
        write: takes bytes in that format; never blocks and never fails
        on_behind: called when the log must be read
        on_done: called when all channels are over and ``until_final`` is set
        on_failed: called when reading the log failed for good
        until_final: whether the stream ends with the final events of all its channels
        greeting: bytes that come before all others; they are held back until then, so that both leave in one write
        cursors: one for each channel, by its name
        live: whether the client has everything, so that events are written as they are announced
        full: whether the writer holds as much as it may: from ``pause`` to ``resume``, and no read is asked for in between
        reading: whether a task of the feed has this client in hand: from ``on_behind`` until it finds it live, full or closed
        closed: whether the client has left, for good; set by the feed
        must_reach: the next read is useful only if it reaches this id; ``NEWEST``: only if it is sent from now on, for a client that
            will not wait for the announcement of what is being published
        stats: the counters of the client's wire format, shared by all its clients; set by the hub
    """

    wire: Wire
    write: Callable[[bytes], object]
    on_behind: Callable[[Subscription], None]
    on_done: Callable[[], object]
    on_failed: Callable[[], object]
    until_final: bool = False
    greeting: bytes = b""
    cursors: dict[str, Cursor] = {}  # a new one for each: msgspec does not share an empty default
    live: bool = True
    full: bool = False
    reading: bool = False
    closed: bool = False
    must_reach: int = 0
    stats: WireStats = UNCOUNTED
    _queue: list[tuple[Cursor, Event]] | None = None
    _queued_bytes: int = 0
    _waited: bool = False  # all logs were read to their ends but at different moments, and one more read has been asked for
    _expecting: tuple[tuple[Ref, list[Cursor]], ...] = ()  # ready notices that are due, with the cursors they wait for

    # What the client asks for

    def add(self, ref: Ref, cursors: list[Cursor]) -> None:
        """Add channels. A ready notice with this ``ref`` follows once their logs have been read."""
        for cursor in cursors:
            self.cursors[cursor.channel.name] = cursor
        self._expecting += ((ref, cursors),)
        self._stop_live()

    def remove(self, cursor: Cursor) -> None:
        """Remove a channel."""
        self.cursors.pop(cursor.channel.name, None)
        for _, cursors in self._expecting:
            if cursor in cursors:
                cursors.remove(cursor)

    # What the writer reports

    def pause(self) -> None:
        """The writer is full: the client is behind until ``resume``."""
        self.full = True
        self.fall_behind()

    def resume(self) -> None:
        """The writer has room again."""
        self.full = False
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
        """Queue, write or drop an announcement that the hub could not write at once."""
        if self._queue is not None:
            self._queued_bytes += len(event.json)
            if self._queued_bytes > QUEUE_BYTES:
                # The queue is given up rather than grown: _go_live will find that something was missed, and have the logs read again.
                self._queue.clear()
            else:
                self._queue.append((cursor, event))
        elif self.live:
            self._offer(cursor, event)

    def _offer(self, cursor: Cursor, event: Event) -> None:
        """Write an event if it comes next, drop it if the client has it, and fall behind if one before it was missed."""
        if event.before <= cursor.position < event.id or not event.id:
            cursor.position = max(cursor.position, event.id)
            self._write(event)
            if event.final:
                cursor.done = True
        elif event.id > cursor.position:
            self.fall_behind()
        else:
            self.stats.duplicates += 1

    def _write(self, event: Event) -> None:
        data = event.encode(self.wire)
        self.write(data)
        self.stats.events += 1
        self.stats.bytes += len(data)

    # Reading the log

    @property
    def unread(self) -> list[Cursor]:
        """The cursors whose logs must be read."""
        return list(filter(is_unread, self.cursors.values()))

    def begin_read(self) -> None:
        """Queue announcements from now on: they bring what is published after the read."""
        self._queue = []
        self._queued_bytes = 0
        for cursor in self.cursors.values():
            cursor.announced = cursor.channel.heard

    def end_read(self, pages: Mapping[Cursor, Page], heard: int) -> None:
        """Deliver what was read, and what was queued meanwhile, and go live if nothing is missing.

        Args:
            pages: what was read for each unread cursor
            heard: the newest id announced to this process on any channel
        """
        # All is collected and written at once, because each write costs 4 us in the kernel (loadtest/experiments/joined-writes).
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
        fell_behind = self._queue is None or self.full  # while the read was under way; or it was full before that, and still is
        must_reach = self.must_reach
        # If the connection to Redis was lost meanwhile, what was heard after that cannot show that a page is up to date.
        finished = self._deliver(pages, 0 if fell_behind else heard)
        if fell_behind:
            self.must_reach = max(self.must_reach, must_reach)  # it may have been asked for since this read was
            self.fall_behind()  # what was read has been delivered, the rest is read again
            return
        self._tell_ready()
        if finished:
            self._go_live()
        self.check_done()

    def _deliver(self, pages: Mapping[Cursor, Page], heard: int) -> bool:
        """Write what was read, in order of id, as far as all pages reach.

        Returns:
            whether nothing is left to be read
        """
        # The channels were read at different moments: an event beyond the lowest horizon could overtake one of another channel.
        horizon = min([cursor.horizon(page, heard) for cursor, page in pages.items()], default=0)
        items = _in_order(pages, horizon)
        large = len(items) > 1 and sum([page.size for page in pages.values()]) > TURN_BYTES
        turn_end = end_of_turn([item for item, _ in items], TURN_BYTES) if large else None
        if turn_end is not None:
            horizon = turn_end
        for item, cursor in items:
            if item.id > horizon:
                break
            self._deliver_one(item, cursor)
        self.must_reach = 0
        finished = turn_end is None and not self._needs_another_read(pages.values(), horizon)
        for cursor, page in pages.items():
            cursor.advance(page, horizon, finished=finished)
        return finished

    def _deliver_one(self, item: Item, cursor: Cursor) -> None:
        if item.event is None:
            self.stats.gaps += 1
            self.notice("gap", {"channel": cursor.channel.name})
        else:
            self._write(item.event)
            cursor.done |= item.event.final
        cursor.position = item.position

    def _needs_another_read(self, pages: Collection[Page], horizon: int) -> bool:
        """Whether the logs must be read once more; sets ``must_reach`` to how far that read has to reach."""
        complete = True
        for page in pages:
            if page.position > horizon:
                self.must_reach = max(self.must_reach, page.position)
            complete &= page.complete
        if not complete:
            return True
        if self.must_reach and not self._waited:
            self._waited = True
            return True
        # Events beyond the horizon were published since the first read, so their announcements are in the queue or on their way.
        # Gaps are not announced.
        if self.must_reach and any(has_gap(page, horizon) for page in pages):
            return True
        self.must_reach = 0
        return False

    def _tell_ready(self) -> None:
        expecting, self._expecting = self._expecting, ()
        for ref, cursors in expecting:
            if any(map(is_unread, cursors)):
                self._expecting += ((ref, cursors),)
                continue
            # With this id an SSE client comes back if no event follows. Without it the client would begin anew if there was no event
            # before either, or be told again of the same gap, or get what was old when it asked for ``now``. The highest position will do
            # for all its channels, because they were delivered in order of id and so nothing up to it is missing on any of them.
            id = max(map(_position, self.cursors.values()), default=0)
            self.write(self.wire.notice("ready", ready(ref, cursors), id))

    def _go_live(self) -> None:
        queue, self._queue = self._queue, None
        self.live = True
        if queue:
            self._take_queue(queue)
        if self.live and any(map(has_missed, self.cursors.values())):
            self.fall_behind()  # the queue was too small; all channels are read again, to keep the order of their events
        for cursor in self.cursors.values():
            cursor.live = self.live

    def _take_queue(self, queue: list[tuple[Cursor, Event]]) -> None:
        if any(c.announced > max(c.position, c.covered) for c in self.cursors.values()):
            self.fall_behind()  # something was announced before the queue was begun, but was not in the log when that was read
        for cursor, event in queue:
            if self.live and self.cursors.get(cursor.channel.name) is cursor:
                self._offer(cursor, event)

    # What the client is told

    def greet(self) -> None:
        """Write the greeting, unless that is done."""
        if self.greeting:
            greeting, self.greeting = self.greeting, b""
            self.write(greeting)

    def notice(self, name: str, fields: Mapping[str, object], id: int = 0) -> None:
        """Write a notice.

        Args:
            name: its ``op``
            fields: the rest of its JSON
            id: a cursor for an SSE client; 0 for none
        """
        self.greet()
        self.write(self.wire.notice(name, notice(name, fields), id))

    def check_done(self) -> None:
        """End the stream if all channels are over and the client asked for that (``until=final``)."""
        if self.until_final and self.cursors and not self._expecting and all(c.done for c in self.cursors.values()):
            self.on_done()

    @property
    def unanswered(self) -> int:
        """How many ready notices are due."""
        return len(self._expecting)

    def positions(self) -> dict[str, str]:
        """The cursors by channel, as the client may send them back. Channels that have not been read yet are left out."""
        return {name: str(cursor.position) for name, cursor in self.cursors.items() if cursor.since is None}


def _in_order(pages: Mapping[Cursor, Page], horizon: int) -> list[tuple[Item, Cursor]]:
    """The items of all pages up to the horizon, in the order in which they are delivered: by id, gaps before events."""
    items = [(item, cursor) for cursor, page in pages.items() for item in page.items if item.id <= horizon]
    if len(items) > 1:
        items.sort(key=lambda pair: (pair[0].id, pair[0].event is not None, pair[1].channel.name))
    return items
