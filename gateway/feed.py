"""Feed: connects Redis to the clients. It reads the log for those that are behind, and gives the others what is announced.

Clients that fall behind in the same turn of the event loop share one task here until they are live again. A client that keeps up has no
task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
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
from gateway.core.subscription import NEWEST, Subscription
from gateway.probe import Probe
from gateway.reads import READS_IN_PIPELINE, Read, Reads, pages_of
from gateway.store.connection import needs_redis
from gateway.store.listener import Listener
from gateway.store.log import Log
from gateway.tasks import until_one_ends

logger = logging.getLogger("gateway.feed")

GATHER_SECONDS: Final = 0.005  # for which clients that fall behind wait for others, while reads for other clients are under way
LINGER_SECONDS: Final = 2.0  # for which a channel without followers is kept, for clients that come back
SWEPT_AT_ONCE: Final = 1_000  # channels given up in one turn of the event loop; each takes 1 us
FLOOR: Final = "!floor"  # on which publish.lua announces a new floor


class Feed:
    """Connects Redis to the clients of this process.

    ``run`` must be running for as long as there are clients. When it ends, with whatever error, the process can deliver nothing and
    must stop.

    Args:
        client: for commands, and for making the pub/sub connection; its owner closes it
        prefix: as GATEWAY_PREFIX
        max_event_bytes: as GATEWAY_MAX_EVENT_BYTES

    Attributes:
        hub: the channels and their followers
        log: appends to the channels' logs and reads them
        listener: the pub/sub connection
        probe: finds out whether events get through
        reads: the reads of logs that clients share
        behind: the clients that are being read for, and since when by the monotonic clock; not those that have no room for more
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
            on_master=self._note_master,
        )
        self.probe = Probe(self.listener, self.log)
        self.reads = Reads(self.log, self.hub)
        self.behind: dict[Subscription, float] = {}
        self._due: list[Subscription] = []  # fell behind in this turn of the event loop
        self._batches = 0  # tasks that are reading
        self._limit = max_event_bytes
        self._tasks: asyncio.TaskGroup | None = None
        self._reserved: dict[str, Callable[[bytes], None]] = {self.probe.name: self.probe.receive, FLOOR: self._hear_floor}
        # Those who called ``listen``: whom to tell when messages may have been missed, and whether they have caught up since.
        self._others: list[tuple[Callable[[], None], asyncio.Event]] = []
        self._holder = b""  # the server that holds the data, as Log.open gave it
        self._heard_of_master = 0  # the newest id heard when that server was last known to be the master

    # For the owner

    async def run(self) -> None:
        """Listen, read and probe until cancelled."""
        for name in self._reserved:
            self.listener.subscribe(name)
        await until_one_ends(self._read_for_clients(), self.listener.run(), self.probe.run(), self._sweep())

    async def _read_for_clients(self) -> None:
        """Own the tasks that read for clients which are behind."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for subscription in self.hub.subscriptions():
                self.catch_up(subscription)  # those that came before there was a task group
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None  # a task group that is ending takes no more tasks

    @property
    def ready(self) -> bool:
        """Whether events get through; if they do not, ``probe.problem`` says why."""
        return not self.probe.problem

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(LINGER_SECONDS / 2)
            while self.sweep(time.monotonic() - LINGER_SECONDS, SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
                await asyncio.sleep(0)
            self.reads.sweep()
            self.greet()

    def greet(self) -> None:
        """Let the heads of answers leave that are held back for a first read, which takes long when Redis is slow or away."""
        for subscription in [subscription for subscription in self.behind if subscription.greeting]:
            subscription.greet()

    def sweep(self, before: float, most: int | None = None) -> int:
        """Give up channels that nobody has followed for a while.

        Args:
            before: only those whose last follower left before this time, by the monotonic clock
            most: how many at most; ``None`` for all

        Returns:
            how many were given up
        """
        idle = takewhile(lambda item: item[1] < before, self.hub.idle.items())  # in the order in which they became idle
        given_up = [channel for channel, _ in islice(idle, most) if self.listener.unsubscribe(channel.name)]
        for channel in given_up:
            self.hub.forget(channel)
        return len(given_up)

    # What comes from Redis

    def listen(self, name: str, on_message: Callable[[bytes], None], on_lost: Callable[[], None]) -> asyncio.Event:
        """Listen to a pub/sub channel that is not an event channel: its name begins with ``!``.

        Args:
            name: without the prefix
            on_message: called with each payload
            on_lost: called when messages may have been missed

        Returns:
            an event, cleared whenever messages may have been missed. The caller sets it once it has caught up: until then no client is
            read for
        """
        self._reserved[name] = on_message
        caught_up = asyncio.Event()
        caught_up.set()
        self._others.append((on_lost, caught_up))
        self.listener.subscribe(name)
        return caught_up

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
        if self.listener.relayed:
            # What was heard lately may have come from the new master, passed on by the old one. What the old one has announced itself
            # after the promotion of the new one is not in the new one's data, so that one must hear of it first.
            await self.log.open(self._heard_of_master, self._holder)
            self._holder = b""  # of what was heard since it is not known which of the two it comes from
        self._holder = await self.log.open(self.hub.heard, self._holder)

    def _note_master(self) -> None:
        self._heard_of_master = self.hub.heard

    def _lose(self) -> None:
        self._read_on()
        for on_lost, caught_up in self._others:
            caught_up.clear()
            on_lost()

    def _read_on(self) -> None:
        """Something may have been missed: put every client behind, and share no page that was read before."""
        self.reads.forget()
        self.hub.all_behind()

    # For the clients

    def follow(self, subscription: Subscription, wanted: Mapping[str, Since], ref: Ref = None) -> None:
        """Add channels to a client's subscription: it gets what it has missed, then a ready notice, then events as they come.

        Args:
            subscription: the client's
            wanted: the channels, and where to begin on each; one that is followed already begins anew if that is an id, else it goes on
            ref: comes back in the ready notice
        """
        cursors = []
        for name, since in wanted.items():
            known = subscription.cursors.get(name)
            if known is not None and known.goes_on(since):
                known.unread = True
                subscription.must_reach = NEWEST  # what is in the log by now comes before the ready notice
                cursors.append(known)
                continue
            if known is not None:
                self.hub.leave(known, time.monotonic())
            cursors.append(self.hub.follow(subscription, name, since))
            self.listener.subscribe(name)
        subscription.add(ref, cursors)

    def leave(self, subscription: Subscription, names: Iterable[str] | None = None) -> None:
        """Remove channels from a client's subscription; without ``names`` remove the client."""
        for name in list(subscription.cursors) if names is None else names:
            cursor = subscription.cursors.get(name)
            if cursor is not None:
                self.hub.leave(cursor, time.monotonic())
        if names is None:
            subscription.closed = True
            self.behind.pop(subscription, None)

    async def is_over(self, wanted: Mapping[str, Since]) -> bool:
        """Whether a reader at these cursors has the final event of every channel, and nothing more to come.

        Raises:
            Unavailable: if Redis is away.
        """
        with needs_redis():
            pages = await self.log.read([(name, since, 1) for name, since in wanted.items()])
        return all(not isinstance(page, RedisError) and page.final and not page.items for page in pages)

    # For those that are behind

    def catch_up(self, subscription: Subscription) -> None:
        """Read the log for a subscription that is behind, until it is live. To be given to it as ``on_behind``."""
        if not subscription.reading and self._tasks is not None:
            subscription.reading = True
            self.behind.setdefault(subscription, time.monotonic())
            if not self._due:
                self._tasks.create_task(self._begin())
            self._due.append(subscription)

    async def _begin(self) -> None:
        """Read for all clients that fell behind in this turn of the event loop.

        While other reads are under way, those of the next few milliseconds are added, because a read of its own costs three times as
        much as a share in a pipeline (loadtest/experiments/handshake-cost).
        """
        if self._batches:
            await asyncio.sleep(GATHER_SECONDS)
        due, self._due = self._due, []
        for i in range(READS_IN_PIPELINE, len(due), READS_IN_PIPELINE):
            if self._tasks is not None:
                self._tasks.create_task(self._catch_up(due[i : i + READS_IN_PIPELINE]))
        await self._catch_up(due[:READS_IN_PIPELINE])

    async def _catch_up(self, batch: list[Subscription]) -> None:
        """Read for these clients, again and again, until each of them is live, full or gone."""
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
                        if read.page is None:  # most are answered together with the one before
                            await read.answered.wait()
                batch = [subscription for subscription, reads in asked if self._take(subscription, reads)]
        finally:
            self._batches -= 1

    async def _confirmed(self, names: Collection[str]) -> None:
        """Wait until Redis has confirmed all of these channels, and all who called ``listen`` have caught up."""
        await self.listener.confirmed(names)
        while waiting := [caught_up for _, caught_up in self._others if not caught_up.is_set()]:
            await waiting[0].wait()
            await self.listener.confirmed(names)  # there may be a new connection by now

    def _is_to_read(self, subscription: Subscription) -> bool:
        """Whether to read on for a client. One that is live, full or gone is no longer in this feed's hands after that."""
        if not (subscription.live or subscription.full or subscription.closed):
            return True
        subscription.reading = False
        since = self.behind.pop(subscription, None)
        if subscription.live and since is not None:
            metrics.TIME_BEHIND.observe(time.monotonic() - since)
        return False

    def _take(self, subscription: Subscription, reads: Mapping[Cursor, Read]) -> bool:
        """Give a client what was read for it.

        Returns:
            whether it goes on being read for together with the others
        """
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
        """Read again after a pause for a client whose channel could not be read, apart from the others, so that it delays nobody."""
        await asyncio.sleep(random.uniform(0.1, 1))
        if self._is_to_read(subscription):
            subscription.reading = False
            self.catch_up(subscription)
