"""Feed: follow a channel, read its log while behind, else live. The only loop between Redis and the clients.

Clients that fall behind in one turn of the loop share a task here for as long as that lasts; a client that keeps up has none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import metrics
from gateway.core.event import MAX_EVENT_BYTES, Malformed, read_announcement
from gateway.core.hub import Channel, Hub
from gateway.core.page import Page, Since
from gateway.core.subscription import Cursor, Ref, Subscription, is_current
from gateway.errors import Unavailable
from gateway.store.listener import Listener
from gateway.store.log import Log

logger = logging.getLogger("gateway.feed")

READ_BYTES: Final = 262_144  # of one client's read, over all its channels
PAGE_BYTES: Final = 65_536  # of one channel: a page is held several times over while it is read, and a slow client takes a minute for it
READS_AT_ONCE: Final = 4  # pipelines on their way to Redis
READS_IN_PIPELINE: Final = 64
GATHER_SECONDS: Final = 0.002  # that who falls behind waits for others, if some are being read for already
SHARED_BYTES: Final = 33_554_432  # of pages kept for the next reader at the same cursor
# Of those of one channel. The kernel takes megabytes for a slow client, read at one go between two announcements: few of these pages
# will be asked for again, and each is held twice, as JSON and as what was written.
KEPT_BYTES: Final = 262_144
LINGER_SECONDS: Final = 2.0  # a channel nobody follows any more is kept for a reader who comes back
PROBE_SECONDS: Final = 1.0
_more: Final = attrgetter("more")
READY_SECONDS: Final = 4.5  # the youngest probe that came back may be so old; whoever asks is to hear of it within 5


@dataclass(slots=True, eq=False)
class Read:
    """A read of one channel's log: to be sent, on its way, or answered."""

    channel: Channel
    since: Since
    size: int
    page: asyncio.Future[Page]
    sent: bool = False


class Reads:
    """Reads of logs, shared: followers of one channel at one cursor cost Redis one read.

    What was read after a cursor stays good until something is announced on the channel, because this process listens since
    before the read. So ten thousand clients that come back one after the other share it too.
    """

    def __init__(self, log: Log, hub: Hub) -> None:
        self._log = log
        self._hub = hub
        self._reads: dict[Channel, dict[tuple[Since, int], Read]] = {}
        self._size = 0
        self._batch: list[Read] = []
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self, channel: Channel | None = None) -> None:
        """Share no more what was read on this channel, or on any: its announcements are no longer heard."""
        if channel is None:
            self._reads.clear()
            self._size = 0
        else:
            self._reads.pop(channel, None)

    def sweep(self) -> None:
        """Keep no pages that nobody can share any more: a slow reader of a busy channel leaves one behind at each of its steps."""
        for channel, reads in list(self._reads.items()):
            self._drop_old(reads)
            if not reads:
                del self._reads[channel]

    def ask(self, cursors: Collection[Cursor], reaching: int) -> dict[Cursor, asyncio.Future[Page]]:
        """A page for each cursor, once it is read; with a ``RedisError`` or an ``OSError`` if Redis is away or refuses.

        Args:
            cursors: where to read from
            reaching: an answered read that does not reach to this id is asked again
        """
        # A channel that was read to its end brings little more, so the others may have the room.
        share, long_share = _share_of(len(cursors)), _share_of(sum(map(_more, cursors)))
        return {cursor: self._share(cursor, long_share if cursor.more else share, reaching) for cursor in cursors}

    def _share(self, cursor: Cursor, size: int, reaching: int) -> asyncio.Future[Page]:
        channel, since = cursor.channel, cursor.start
        reads = self._reads.setdefault(channel, {})
        read = reads.get((since, size))
        if read is not None and self._is_good(read, reaching):
            metrics.SHARED_READS.value += 1
            return read.page
        if reads:
            self._drop_old(reads)
        read = reads[since, size] = Read(channel, since, size, asyncio.get_running_loop().create_future())
        if not self._batch:
            asyncio.get_running_loop().call_soon(self._send)
        self._batch.append(read)
        return read.page

    def _drop_old(self, reads: dict[tuple[Since, int], Read]) -> None:
        kept = 0
        for key, read in reversed(list(reads.items())):
            if read.page.done() and (not self._is_good(read, 0) or (kept := kept + read.page.result().size) > KEPT_BYTES):
                del reads[key]
        if len(reads) >= READS_IN_PIPELINE:
            reads.clear()

    def _is_good(self, read: Read, reaching: int) -> bool:
        if isinstance(read.since, str):
            return not read.sent  # the newest event at a moment before this client came is not what it asked for
        if not read.page.done():
            # On its way. What is announced before it is answered, or lies beyond it, the subscription's checks find missing.
            return True
        if read.page.exception() is not None:
            return False
        page = read.page.result()
        return is_current(read.channel, page) and (not page.complete or max(page.horizon, self._hub.heard) >= reaching)

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        for i in range(0, len(batch), READS_IN_PIPELINE):
            task = asyncio.get_running_loop().create_task(self._run(batch[i : i + READS_IN_PIPELINE]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[Read]) -> None:
        error: BaseException = asyncio.CancelledError()
        try:
            async with self._slots:
                metrics.READS.value += len(batch)
                if not await self._ask(batch):
                    await self._log.open(self._hub.heard)
                    await self._ask(batch, anyhow=True)
            if self._size > SHARED_BYTES:
                self.forget()
        except Exception as caught:  # noqa: BLE001 - it is raised where the pages are awaited
            error = caught
        finally:
            for read in batch:
                if not read.page.done():
                    read.page.set_exception(error)
                if not read.page.cancelled():
                    read.page.exception()  # seen, even if everybody who waited is gone

    async def _ask(self, batch: list[Read], *, anyhow: bool = False) -> bool:
        """Read, and take what was read; not from a Redis that has lost its clock, or what this process has heard of."""
        newest = max(1, self._hub.heard)
        heard = [read.channel.heard for read in batch]
        for read in batch:
            read.sent = True
        pages = await self._log.read([(read.channel.name, read.since, read.size) for read in batch])
        if not anyhow and any(page.clock < newest for page in pages if isinstance(page, Page)):
            return False
        for read, page, id in zip(batch, pages, heard, strict=True):
            self._take(read, page, id)
        return True

    def _take(self, read: Read, page: Page | RedisError, heard: int) -> None:
        if isinstance(page, RedisError):
            read.page.set_exception(page)
            return
        page.heard = heard
        read.page.set_result(page)
        self._size += page.size


@lru_cache(256)
def _share_of(count: int) -> int:
    # A power of two, so that clients with a few channels more or less share their reads.
    return min(PAGE_BYTES, 1 << (READ_BYTES // max(1, count)).bit_length() - 1)


class Feed:
    """What connects Redis to the clients of this process.

    Run it with ``run()``; when that ends, with whatever error, the process can deliver nothing and must stop.

    Attributes:
        behind: the clients that read from the log, and since when
    """

    def __init__(self, client: Redis, prefix: str = "notify", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.hub = Hub()
        self.log = Log(client, prefix, max_event_bytes)
        self.listener = Listener(
            client,
            prefix,
            on_message=self._hear,
            on_lost=self._lose,
            on_connected=lambda: self.log.open(self.hub.heard),
        )
        self.reads = Reads(self.log, self.hub)
        self.behind: dict[Subscription, float] = {}
        self._due: list[Subscription] = []
        self._batches = 0
        self._limit = max_event_bytes
        self._tasks: asyncio.TaskGroup | None = None
        self._probe = f"!{os.urandom(8).hex()}"
        self._reserved: dict[str, Callable[[bytes], None]] = {self._probe: self._hear_probe}
        self._on_lost: list[Callable[[], None]] = []
        self._probe_back = -READY_SECONDS

    # The owner's side

    async def run(self) -> None:
        """Listen, read and probe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self.listener.subscribe(self._probe)
            tasks.create_task(self.listener.run(), name="listener")
            tasks.create_task(self._probe_redis(), name="probe")
            tasks.create_task(self._sweep(), name="sweep")
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None  # a group that ends takes no more

    @property
    def ready(self) -> bool:
        """Whether a probe went through Redis and came back in the last seconds."""
        return self.probe_age < READY_SECONDS

    @property
    def probe_age(self) -> float:
        """Seconds since a probe came back."""
        return time.monotonic() - self._probe_back

    async def _probe_redis(self) -> None:
        while True:
            # Not through: the missing probe says so.
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    await self.listener.confirmed([self._probe])
                    await self.log.announce(self._probe, str(time.monotonic_ns()).encode())
            await asyncio.sleep(PROBE_SECONDS * random.uniform(0.8, 1.0))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(LINGER_SECONDS / 2)
            self.sweep(time.monotonic() - LINGER_SECONDS)
            self.reads.sweep()

    def sweep(self, before: float) -> None:
        """Give up the channels that nobody has followed since then."""
        for channel, since in list(self.hub.idle.items()):
            if since < before and self.listener.unsubscribe(channel.name):
                self.hub.forget(channel)
                self.reads.forget(channel)

    # What comes from Redis

    def listen(self, name: str, on_message: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        """Hear what is published under a name that is no channel's: it begins with ``!``.

        Args:
            name: without the prefix
            on_message: called with each payload
            on_lost: called when one may have been missed
        """
        self._reserved[name] = on_message
        self._on_lost.append(on_lost)
        self.listener.subscribe(name)

    def _hear_probe(self, payload: bytes) -> None:
        sent = int(payload) / 1e9
        self._probe_back = max(self._probe_back, sent)
        metrics.ROUND_TRIP.observe(time.monotonic() - sent)

    def _hear(self, name: str, payload: bytes) -> None:
        if name in self._reserved:
            self._reserved[name](payload)
            return
        try:
            event = read_announcement(name, payload, self._limit)
        except Malformed as error:
            metrics.MALFORMED.value += 1
            logger.warning("channel %s: an announcement was dropped: %s", ascii(name), error)
            return
        lines = self.hub.announce(event)
        if not event.id:
            metrics.LIVE_ONLY.value += 1
            return
        metrics.RECORDED.value += 1
        latency = max(0.0, time.time() - event.id / 1e6)
        for wire, _, _ in lines:
            metrics.LATENCY_BY_WIRE[wire.name].observe(latency)

    def _lose(self) -> None:
        self.reads.forget()
        self.hub.all_behind()
        for on_lost in self._on_lost:
            on_lost()

    # The clients' side

    def follow(self, subscription: Subscription, wanted: Mapping[str, Since], ref: Ref = None) -> None:
        """Add channels to a client's subscription: first what it has missed, then ready, then events as they come."""
        cursors = []
        for name, since in wanted.items():
            if name in subscription.cursors:
                self.hub.leave(subscription.cursors[name], time.monotonic())
            cursors.append(self.hub.follow(subscription, name, since))
            self.listener.subscribe(name)
        subscription.expect(ref, cursors)

    def leave(self, subscription: Subscription, names: Iterable[str] | None = None) -> None:
        """Take channels out of a client's subscription; without ``names`` the client itself."""
        for name in list(subscription.cursors) if names is None else names:
            cursor = subscription.cursors.get(name)
            if cursor is not None:
                self.hub.leave(cursor, time.monotonic())
        if names is None:
            subscription.closed = True
            self.behind.pop(subscription, None)

    async def is_over(self, wanted: Mapping[str, Since]) -> bool:
        """Whether on each channel the final event lies behind the reader, and nothing ahead.

        Raises:
            Unavailable: if Redis is away.
        """
        try:
            pages = await self.log.read([(name, since, 1) for name, since in wanted.items()])
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis is away: {type(error).__name__}") from error
        return all(not isinstance(page, RedisError) and page.final and not page.items for page in pages)

    def catch_up(self, subscription: Subscription) -> None:
        """Read the log for a subscription that is behind. A subscription's ``on_behind``."""
        if not subscription.reading and self._tasks is not None:
            subscription.reading = True
            self.behind.setdefault(subscription, time.monotonic())
            if not self._due:
                self._tasks.create_task(self._begin())
            self._due.append(subscription)

    async def _begin(self) -> None:
        """Read for those who fell behind in this turn of the loop; while others are at it, for those of the next moment too.

        A read of its own costs three times what its share of a pipeline does (loadtest/experiments/handshake-cost).
        """
        if self._batches:
            await asyncio.sleep(GATHER_SECONDS)
        due, self._due = self._due, []
        for i in range(0, len(due), READS_IN_PIPELINE):
            if self._tasks is not None:
                self._tasks.create_task(self._catch_up(due[i : i + READS_IN_PIPELINE]))

    async def _catch_up(self, batch: list[Subscription]) -> None:
        self._batches += 1
        try:
            while batch := [subscription for subscription in batch if self._is_to_read(subscription)]:
                await self.listener.confirmed(name for subscription in batch for name in subscription.cursors)
                asked = {}
                for subscription in batch:
                    subscription.begin_read()
                    asked[subscription] = self.reads.ask(subscription.unread, subscription.wanted)
                await _all_done(page for pages in asked.values() for page in pages.values())
                batch = [subscription for subscription, pages in asked.items() if self._take(subscription, pages)]
        finally:
            self._batches -= 1

    def _is_to_read(self, subscription: Subscription) -> bool:
        if not (subscription.live or subscription.full or subscription.closed):
            return True
        subscription.reading = False
        if subscription.live and (since := self.behind.pop(subscription, None)) is not None:
            metrics.TIME_BEHIND.observe(time.monotonic() - since)
        return False

    def _take(self, subscription: Subscription, asked: Mapping[Cursor, asyncio.Future[Page]]) -> bool:
        """Give a client what was read for it; whether there may be more to read at once."""
        try:
            pages = {cursor: page.result() for cursor, page in asked.items()}
            if not subscription.closed:
                subscription.end_read(pages, self.hub.heard)
        except (RedisError, OSError):
            if self._tasks is not None:
                self._tasks.create_task(self._try_again(subscription))
            return False
        except Exception:
            logger.exception("reading on for a client failed; it is sent away and will come back")
            subscription.reading = False
            subscription.on_failed()
            return False
        return True

    async def _try_again(self, subscription: Subscription) -> None:
        """A client whose channel cannot be read waits on its own, and holds up nobody."""
        await asyncio.sleep(random.uniform(0.1, 1))
        if self._is_to_read(subscription):
            subscription.reading = False
            self.catch_up(subscription)


async def _all_done(pages: Iterable[asyncio.Future[Page]]) -> None:
    """Wait until all are there. They are others' too, and go on if this is cancelled."""
    for page in pages:
        if not page.done():  # most came with the one before
            await asyncio.wait([page])
