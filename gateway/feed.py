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
from itertools import islice, takewhile
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import metrics
from gateway.core.cursor import Cursor
from gateway.core.event import MAX_EVENT_BYTES, Malformed, parse_announcement
from gateway.core.hub import Hub
from gateway.core.notices import Ref
from gateway.core.page import Since
from gateway.core.subscription import Subscription
from gateway.errors import Unavailable
from gateway.reads import READS_IN_PIPELINE, Read, Reads, pages_of
from gateway.store.listener import Listener
from gateway.store.log import Log

logger = logging.getLogger("gateway.feed")

GATHER_SECONDS: Final = 0.005  # that who falls behind waits for others, if some are being read for already
LINGER_SECONDS: Final = 2.0  # a channel nobody follows any more is kept for a reader who comes back
SWEPT_AT_ONCE: Final = 1_000  # channels, between two turns of the event loop; each takes 1 us
PROBE_SECONDS: Final = 1.0
READY_SECONDS: Final = 4.5  # the youngest probe that came back may be so old; whoever asks is to hear of it within 5
FLOOR: Final = "!floor"  # what publish.lua says when it raises one
AWAY_SECONDS: Final = 0.3  # that the connection may be lost before the next probe is missed: it mostly comes back sooner


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
            on_connected=self._open,
        )
        self.reads = Reads(self.log, self.hub)
        self.behind: dict[Subscription, float] = {}
        self._due: list[Subscription] = []
        self._batches = 0
        self._limit = max_event_bytes
        self._tasks: asyncio.TaskGroup | None = None
        self._probe = f"!{os.urandom(8).hex()}"
        self._reserved: dict[str, Callable[[bytes], None]] = {self._probe: self._hear_probe, FLOOR: self._hear_floor}
        self._on_lost: list[tuple[Callable[[], None], asyncio.Event]] = []
        self._probe_back = -READY_SECONDS
        self._source = b""  # who held the data that this process has heard of

    # The owner's side

    async def run(self) -> None:
        """Listen, read and probe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for name in self._reserved:
                self.listener.subscribe(name)
            tasks.create_task(self.listener.run(), name="listener")
            tasks.create_task(self._probe_redis(), name="probe")
            tasks.create_task(self._sweep(), name="sweep")
            for subscription in self.hub.subscriptions():
                self.catch_up(subscription)  # who came in the moment before
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None  # a group that ends takes no more

    @property
    def ready(self) -> bool:
        """Whether a probe went through Redis and came back in the last seconds, and the way that it came is there."""
        return not self.unready

    @property
    def unready(self) -> str:
        """Why it is not ``ready``, empty if it is."""
        if self.listener.away >= AWAY_SECONDS:
            return "there is no connection to Redis"
        if self.probe_age >= READY_SECONDS:
            return f"no probe has come back from Redis in the last {READY_SECONDS:g} s"
        return ""

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
            while self.sweep(time.monotonic() - LINGER_SECONDS, SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
                await asyncio.sleep(0)
            self.reads.sweep()
            for subscription in [subscription for subscription in self.behind if subscription.greeting]:
                subscription.greet()  # their first read takes its time, as Redis is slow or away

    def sweep(self, before: float, most: int | None = None) -> int:
        """Give up the channels that nobody has followed since then, or so many of them; how many that were."""
        idle = takewhile(lambda item: item[1] < before, self.hub.idle.items())  # who became so last stands last
        given_up = [channel for channel, _ in islice(idle, most) if self.listener.unsubscribe(channel.name)]
        for channel in given_up:
            self.hub.forget(channel)
        return len(given_up)

    # What comes from Redis

    def listen(self, name: str, on_message: Callable[[bytes], None], on_lost: Callable[[], None]) -> asyncio.Event:
        """Hear what is published under a name that is no channel's: it begins with ``!``.

        Args:
            name: without the prefix
            on_message: called with each payload
            on_lost: called when one may have been missed

        Returns:
            to be set by whoever listens once it knows what it has missed: until then no client reads on
        """
        self._reserved[name] = on_message
        caught_up = asyncio.Event()
        caught_up.set()
        self._on_lost.append((on_lost, caught_up))
        self.listener.subscribe(name)
        return caught_up

    def _hear_probe(self, payload: bytes) -> None:
        sent = int(payload) / 1e9
        self._probe_back = max(self._probe_back, sent)
        metrics.ROUND_TRIP.observe(time.monotonic() - sent)

    def _hear_floor(self, _: bytes) -> None:
        logger.warning("Redis may have lost events: all clients read on from its logs")
        self._read_on()

    def _hear(self, name: str, payload: bytes) -> None:
        if name in self._reserved:
            self._reserved[name](payload)
            return
        try:
            event = parse_announcement(name, payload, self._limit)
        except Malformed as error:
            metrics.MALFORMED.value += 1
            logger.warning("channel %s: an announcement was dropped: %s", ascii(name), error)
            return
        groups = self.hub.announce(event)
        if not event.id:
            metrics.LIVE_ONLY.value += 1
            return
        metrics.RECORDED.value += 1
        latency = max(0.0, time.time() - event.id / 1e6)
        for wire, _, _ in groups:
            metrics.LATENCY_BY_WIRE[wire.name].observe(latency)

    async def _open(self) -> None:
        source = b"" if self.listener.relayed else self._source
        self._source = await self.log.open(self.hub.heard, source)

    def _lose(self) -> None:
        self._read_on()
        for on_lost, caught_up in self._on_lost:
            caught_up.clear()
            on_lost()

    def _read_on(self) -> None:
        """What was heard, and what was read before, may not be all: every client reads on from the logs."""
        self.reads.forget()
        self.hub.all_behind()

    # The clients' side

    def follow(self, subscription: Subscription, wanted: Mapping[str, Since], ref: Ref = None) -> None:
        """Add channels to a client's subscription: first what it has missed, then ready, then events as they come."""
        cursors = []
        for name, since in wanted.items():
            if name in subscription.cursors:
                self.hub.leave(subscription.cursors[name], time.monotonic())
            cursors.append(self.hub.follow(subscription, name, since))
            self.listener.subscribe(name)
        subscription.add(ref, cursors)

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
        for i in range(READS_IN_PIPELINE, len(due), READS_IN_PIPELINE):
            if self._tasks is not None:
                self._tasks.create_task(self._catch_up(due[i : i + READS_IN_PIPELINE]))
        await self._catch_up(due[:READS_IN_PIPELINE])

    async def _catch_up(self, batch: list[Subscription]) -> None:
        self._batches += 1
        try:
            while batch := [subscription for subscription in batch if self._is_to_read(subscription)]:
                await self._confirmed([name for subscription in batch for name in subscription.cursors])
                asked = []
                for subscription in batch:
                    subscription.begin_read()
                    asked.append((subscription, self.reads.ask(subscription.unread, subscription.must_reach)))
                for _, reads in asked:
                    for read in reads.values():
                        if read.page is None:  # most came with the one before
                            await read.answered.wait()
                batch = [subscription for subscription, reads in asked if self._take(subscription, reads)]
        finally:
            self._batches -= 1

    async def _confirmed(self, names: Collection[str]) -> None:
        """Wait until all of these are heard, and those who listen to more than channels know what they have missed."""
        await self.listener.confirmed(names)
        while waiting := [caught_up for _, caught_up in self._on_lost if not caught_up.is_set()]:
            await waiting[0].wait()
            await self.listener.confirmed(names)  # the connection may be another one by now

    def _is_to_read(self, subscription: Subscription) -> bool:
        if not (subscription.live or subscription.full or subscription.closed):
            return True
        subscription.reading = False
        if subscription.live and (since := self.behind.pop(subscription, None)) is not None:
            metrics.TIME_BEHIND.observe(time.monotonic() - since)
        return False

    def _take(self, subscription: Subscription, reads: Mapping[Cursor, Read]) -> bool:
        """Give a client what was read for it; whether there may be more to read at once."""
        try:
            pages = pages_of(reads)
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
