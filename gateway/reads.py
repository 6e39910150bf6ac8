"""Reads: reads of channels' logs, many in one pipeline, and each page shared by all clients that ask for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Final

import msgspec

from gateway import metrics
from gateway.core.cursor import Cursor, is_current
from gateway.core.hub import Channel, Hub
from gateway.core.page import Page, Since
from gateway.core.subscription import NEWEST
from gateway.store.log import Log

logger = logging.getLogger("gateway.reads")

READ_BYTES: Final = 262_144  # that the reads for one client may bring at a time, over all its channels
PAGE_BYTES: Final = 65_536  # on one channel: a page is held several times over while it is read, and a slow client takes a minute for it
READS_AT_ONCE: Final = 4  # pipelines on their way to Redis
READS_IN_PIPELINE: Final = 64
SHARED_BYTES: Final = 33_554_432  # of pages kept to be shared, over all channels
# Of pages kept to be shared on one channel. A slow client whose kernel buffer takes megabytes reads many pages one after the other, of
# which few will be asked for again, and each is held twice: as JSON and in the wire format.
KEPT_BYTES: Final = 262_144
KEPT_READS: Final = 64  # on one channel, before all are dropped: each new read looks at every one of them
AHEAD: Final = 86_400_000_000  # microseconds, as in publish.lua: an id further ahead of Redis's clock is not believed

_read_budget: Final = attrgetter("read_budget")


class Read(msgspec.Struct, eq=False):
    """A read of one channel's log: to be sent, on its way, or answered.

    Attributes:
        budget: how many bytes it may bring
        answered: set once the whole pipeline is answered; a future for each read would cost every client 2 us
        sent: whether it is on its way, or answered
        page: what was read, or the error that came instead; ``None`` until it is answered
    """

    channel: Channel
    since: Since
    budget: int
    answered: asyncio.Event
    sent: bool = False
    page: Page | Exception | None = None


def pages_of(reads: Mapping[Cursor, Read]) -> dict[Cursor, Page]:
    """The pages of reads that are all answered.

    Raises:
        RedisError, OSError: if Redis is away, or has refused one of the reads.
    """
    pages = {}
    for cursor, read in reads.items():
        if not isinstance(read.page, Page):
            raise read.page or asyncio.InvalidStateError("a read that is not answered")
        pages[cursor] = read.page
    return pages


Shared = dict[tuple[Since, int], Read]
"""The reads of one channel, by where they begin and how many bytes they may bring."""


class Reads:
    """Reads of logs that are shared: all followers of a channel at the same cursor cost Redis one read.

    What was read after a cursor stays valid until something is announced on the channel, because this process was already listening
    before it read. So ten thousand clients that come back one after the other share a read as well.
    """

    def __init__(self, log: Log, hub: Hub) -> None:
        self._log = log
        self._hub = hub
        self._reads: dict[Channel, Shared] = {}
        self._older: dict[Channel, Shared] = {}  # those of channels that nobody has read since the last sweep
        self._size = 0  # of all pages read since they were last forgotten
        self._batch: list[Read] = []
        self._answered = asyncio.Event()  # for the reads in the batch
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Share none of the pages that were read so far: announcements may have been missed."""
        self._reads, self._older = {}, {}
        self._size = 0

    def sweep(self) -> None:
        """Drop the pages of channels that nobody has read since the last sweep but one; else they would stay while the channel is quiet."""
        self._reads, self._older = {}, self._reads

    def ask(self, cursors: Collection[Cursor], must_reach: int) -> dict[Cursor, Read]:
        """Ask for a read for each cursor.

        Args:
            cursors: where to read from
            must_reach: a page that does not reach this id is not shared but read again; ``NEWEST`` stands for all that is in the log now

        Returns:
            for each cursor a read. Once it is answered, its page is a ``RedisError`` or an ``OSError`` if Redis is away or has refused
        """
        # The bytes are divided among the channels that still have a lot to read. A channel that was read to its end brings little, and
        # one whose page lies ahead of the others keeps its budget, so that it is given the same page again. Mostly a single channel is
        # left, and with an equal budget for each channel it would get only a few events with each read.
        budget = long_budget = _budget_for(len(cursors))
        if sum(map(_read_budget, cursors)) <= READ_BYTES:
            long_budget = _budget_for(sum([cursor.more and not cursor.read_budget for cursor in cursors]))
        asked = {}
        for cursor in cursors:
            cursor.read_budget = cursor.read_budget or (long_budget if cursor.more else budget)
            asked[cursor] = self._share_or_begin(cursor, must_reach)
        return asked

    def _share_or_begin(self, cursor: Cursor, must_reach: int) -> Read:
        """A read that another client has asked for, if one will do, or else a new one."""
        channel, since, budget = cursor.channel, cursor.start, cursor.read_budget
        reads = self._reads.get(channel)
        if reads is None:
            reads = self._reads[channel] = self._older.pop(channel, {})
        if reads:
            read = reads.get((since, budget))
            if read is not None and self._is_reusable(read, must_reach):
                metrics.SHARED_READS.value += 1
                return read
            self._drop_old(reads)
        if not self._batch:
            self._answered = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._send)
        read = reads[since, budget] = Read(channel, since, budget, self._answered)
        self._batch.append(read)
        if len(self._batch) == READS_IN_PIPELINE:
            self._send()
        return read

    def _drop_old(self, reads: Shared) -> None:
        """Drop the pages of one channel that are of no use any more, the oldest ones beyond ``KEPT_BYTES``, or all if too many are left."""
        kept = 0
        for key, read in reversed(list(reads.items())):
            if read.page is None:
                continue
            if not isinstance(read.page, Page) or not self._is_reusable(read, 0) or (kept := kept + read.page.size) > KEPT_BYTES:
                del reads[key]
        if len(reads) >= KEPT_READS:
            reads.clear()

    def _is_reusable(self, read: Read, must_reach: int) -> bool:
        if isinstance(read.since, str) or must_reach == NEWEST:
            return not read.sent  # "last", "now" and NEWEST mean the moment at which this client came, not an earlier one
        page = read.page
        if page is None:
            # It is on its way. If it turns out to miss something that was announced, the subscription will notice and read again.
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
        # If this is cancelled, those who wait read again. They must not be cancelled with it, because they read for other clients too.
        error: Exception = InterruptedError("the read was cancelled")
        try:
            async with self._slots:
                metrics.READS.value += len(batch)
                if not await self._read_batch(batch):
                    await self._log.open(self._hub.heard)
                    await self._read_batch(batch, accept_stale=True)
                    self._check_heard(batch)
            if self._size > SHARED_BYTES:
                self.forget()
        except Exception as caught:  # noqa: BLE001 - it is raised where the pages are awaited
            error = caught
        finally:
            for read in batch:
                if read.page is None:
                    read.page = error
            batch[0].answered.set()

    def _check_heard(self, batch: list[Read]) -> None:
        """Forget what was heard if it is so far ahead of Redis's clock that Redis has not taken it over (open_clock in publish.lua).

        A stranger may have announced it, or a Redis whose clock was wrong and that has lost its data. Ids would not rise above it for
        days: every read would look outdated, and none would notice what is announced after it.
        """
        clock = max([read.page.clock for read in batch if isinstance(read.page, Page)], default=self._hub.heard)
        if self._hub.heard > clock + AHEAD:
            logger.warning("the id %d was heard, and Redis is at %d: it is forgotten, all clients read on", self._hub.heard, clock)
            self._hub.forget_heard()
            self.forget()
            self._hub.all_behind()

    async def _read_batch(self, batch: list[Read], *, accept_stale: bool = False) -> bool:
        """Read, and store the pages in the reads.

        Returns:
            ``False``, with nothing stored, if Redis's clock is behind what this process has heard of, because it has lost data; unless
            ``accept_stale``
        """
        newest = max(1, self._hub.heard)
        heard = [read.channel.heard for read in batch]
        for read in batch:
            read.sent = True
        pages = await self._log.read([(read.channel.name, read.since, read.budget) for read in batch])
        if not accept_stale and min([page.clock for page in pages if isinstance(page, Page)], default=newest) < newest:
            return False
        for read, page, id in zip(batch, pages, heard, strict=True):
            read.page = page
            if isinstance(page, Page):
                page.heard = id
                self._size += page.size
        return True


@lru_cache(256)
def _budget_for(count: int) -> int:
    """The bytes that each of so many reads may bring."""
    # A power of two, so that clients with slightly different numbers of channels ask for the same budget and can share their reads.
    return min(PAGE_BYTES, 1 << (READ_BYTES // max(1, count)).bit_length() - 1)
