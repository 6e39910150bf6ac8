"""Reads: ask for the logs of channels, many together, and each page once for all who want it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Final

import msgspec

from gateway import metrics
from gateway.core.cursor import Cursor, is_current
from gateway.core.hub import Channel, Hub
from gateway.core.page import Page, Since
from gateway.store.log import Log

READ_BYTES: Final = 262_144  # of one client's read, over all its channels
PAGE_BYTES: Final = 65_536  # of one channel: a page is held several times over while it is read, and a slow client takes a minute for it
READS_AT_ONCE: Final = 4  # pipelines on their way to Redis
READS_IN_PIPELINE: Final = 64
SHARED_BYTES: Final = 33_554_432  # of pages kept for the next reader at the same cursor
# Of those of one channel. The kernel takes megabytes for a slow client, read at one go between two announcements: few of these pages
# will be asked for again, and each is held twice, as JSON and as what was written.
KEPT_BYTES: Final = 262_144

_read_budget: Final = attrgetter("read_budget")


class Read(msgspec.Struct, eq=False):
    """A read of one channel's log: to be sent, on its way, or answered.

    Attributes:
        answered: set once all that are asked for together are; a future for each of them would cost a client 2 us
        page: what was read, or the error that came instead
    """

    channel: Channel
    since: Since
    size: int
    answered: asyncio.Event
    sent: bool = False
    page: Page | BaseException | None = None


def pages_of(reads: Mapping[Cursor, Read]) -> dict[Cursor, Page]:
    """What was read, all of it answered.

    Raises:
        RedisError, OSError: if Redis is away or has refused one.
    """
    pages = {}
    for cursor, read in reads.items():
        if not isinstance(read.page, Page):
            raise read.page or asyncio.InvalidStateError("a read that is not answered")
        pages[cursor] = read.page
    return pages


Shared = dict[tuple[Since, int], Read]
"""Those of one channel, by where they begin and how much they may bring."""


class Reads:
    """Reads of logs, shared: followers of one channel at one cursor cost Redis one read.

    What was read after a cursor stays good until something is announced on the channel, because this process listens since
    before the read. So ten thousand clients that come back one after the other share it too.
    """

    def __init__(self, log: Log, hub: Hub) -> None:
        self._log = log
        self._hub = hub
        self._reads: dict[Channel, Shared] = {}
        self._older: dict[Channel, Shared] = {}  # not used since the last sweep
        self._size = 0
        self._batch: list[Read] = []
        self._answered = asyncio.Event()  # that of the batch
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Share no more what was read: announcements may have been missed."""
        self._reads, self._older = {}, {}
        self._size = 0

    def sweep(self) -> None:
        """Keep no page that nobody has asked for since the sweep before the last: it would be there for as long as the channel is quiet."""
        self._reads, self._older = {}, self._reads

    def ask(self, cursors: Collection[Cursor], must_reach: int) -> dict[Cursor, Read]:
        """A read for each cursor, its page a ``RedisError`` or an ``OSError`` if Redis is away or refuses.

        Args:
            cursors: where to read from
            must_reach: an answered read that does not reach to this id is asked again
        """
        # A channel that was read to its end brings little more, and one whose page lies ahead of the others needs none, so the others
        # may have the room: mostly there is one whose turn it is, and a page for each few of its events would take for ever.
        share = long_share = _share_of(len(cursors))
        if sum(map(_read_budget, cursors)) <= READ_BYTES:
            long_share = _share_of(sum([cursor.more and not cursor.read_budget for cursor in cursors]))
        asked = {}
        for cursor in cursors:
            cursor.read_budget = cursor.read_budget or (long_share if cursor.more else share)
            asked[cursor] = self._share(cursor, cursor.read_budget, must_reach)
        return asked

    def _share(self, cursor: Cursor, size: int, must_reach: int) -> Read:
        channel, since = cursor.channel, cursor.start
        reads = self._reads.get(channel)
        if reads is None:
            reads = self._reads[channel] = self._older.pop(channel, {})
        if reads:
            read = reads.get((since, size))
            if read is not None and self._is_reusable(read, must_reach):
                metrics.SHARED_READS.value += 1
                return read
            self._drop_old(reads)
        if not self._batch:
            self._answered = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._send)
        read = reads[since, size] = Read(channel, since, size, self._answered)
        self._batch.append(read)
        if len(self._batch) == READS_IN_PIPELINE:
            self._send()
        return read

    def _drop_old(self, reads: Shared) -> None:
        kept = 0
        for key, read in reversed(list(reads.items())):
            if read.page is None:
                continue
            if not isinstance(read.page, Page) or not self._is_reusable(read, 0) or (kept := kept + read.page.size) > KEPT_BYTES:
                del reads[key]
        if len(reads) >= READS_IN_PIPELINE:
            reads.clear()

    def _is_reusable(self, read: Read, must_reach: int) -> bool:
        if isinstance(read.since, str):
            return not read.sent  # the newest event at a moment before this client came is not what it asked for
        page = read.page
        if page is None:
            # On its way. What is announced before it is answered, or lies beyond it, the subscription's checks find missing.
            return True
        if not isinstance(page, Page):
            return False
        return is_current(read.channel, page) and (not page.complete or max(page.horizon, self._hub.heard) >= must_reach)

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[Read]) -> None:
        error: BaseException = asyncio.CancelledError()
        try:
            async with self._slots:
                metrics.READS.value += len(batch)
                if not await self._ask(batch):
                    await self._log.open(self._hub.heard)
                    await self._ask(batch, accept_stale=True)
            if self._size > SHARED_BYTES:
                self.forget()
        except Exception as caught:  # noqa: BLE001 - it is raised where the pages are awaited
            error = caught
        finally:
            for read in batch:
                if read.page is None:
                    read.page = error
            batch[0].answered.set()

    async def _ask(self, batch: list[Read], *, accept_stale: bool = False) -> bool:
        """Read, and take what was read; not from a Redis that has lost its clock, or what this process has heard of."""
        newest = max(1, self._hub.heard)
        heard = [read.channel.heard for read in batch]
        for read in batch:
            read.sent = True
        pages = await self._log.read([(read.channel.name, read.since, read.size) for read in batch])
        if not accept_stale and min([page.clock for page in pages if isinstance(page, Page)], default=newest) < newest:
            return False
        for read, page, id in zip(batch, pages, heard, strict=True):
            read.page = page
            if isinstance(page, Page):
                page.heard = id
                self._size += page.size
        return True


@lru_cache(256)
def _share_of(count: int) -> int:
    # A power of two, so that clients with a few channels more or less share their reads.
    return min(PAGE_BYTES, 1 << (READ_BYTES // max(1, count)).bit_length() - 1)
