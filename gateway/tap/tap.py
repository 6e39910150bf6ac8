"""Tap: publishes what happens to the jobs of a BullMQ queue, from the stream of events that BullMQ writes anyway.

The Node workers need no change. If several taps run for a queue, only the one that holds a lease in Redis reads. It stores its position
in the stream after it has published. So when a tap dies or loses its lease, the next one may read some entries again, and idempotency
keys keep those events from being published twice. Progress has no keys, because there is too much of it: of the entries that are read
together only a job's newest progress is published, and only if no other event of the job follows. So reading them again never
shows an ended job as running.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.event import channel_problem, show
from gateway.errors import GatewayError, Unavailable
from gateway.store.log import Log, Publication
from gateway.tap.bullmq import Entry, Job, JobEvent, collapse, translate
from gateway.tasks import until_one_ends

logger = logging.getLogger("gateway.tap")

LEASE_SECONDS: Final = 10.0  # for which a tap that has died keeps the others from reading
BLOCK_SECONDS: Final = 1.0  # for which one read waits for new entries
ENTRIES_AT_ONCE: Final = 100
MAX_JOBS: Final = 10_000  # whose name and owner are remembered

# Stores the position and extends the lease, if it is still ours.
_SAVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Tap:
    """The tap of one queue.

    Args:
        queue: its name
        source: the Redis of BullMQ
        client: the gateway's Redis, where the lease and the position are kept
        log: publishes there
        prefix: as GATEWAY_PREFIX
        bull: BullMQ's prefix
        channel: the name of a job's channel, with ``{id}`` and, if the ids of several queues may be the same, ``{queue}``
        results: whether ``completed`` has what the job returned
        messages: whether ``failed`` has the error's text, which may hold what is not meant for users
        since: where the very first tap of the queue begins: ``now`` or ``0``
    """

    def __init__(
        self,
        queue: str,
        source: Redis,
        client: Redis,
        log: Log,
        *,
        prefix: str,
        bull: str = "bull",
        channel: str = "jobs:{id}",
        results: bool = False,
        messages: bool = False,
        since: str = "now",
    ) -> None:
        self.queue = queue
        self._source, self._client, self._log, self._since = source, client, log, since
        self._channel, self._results, self._messages = channel, results, messages
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._key = f"{bull}:{queue}"
        name = f"{prefix}:tap:{{{self._key}}}"
        self._lease, self._position = f"{name}:lease", f"{name}:position"
        self._me = secrets.token_hex(8)
        self._until = 0.0  # until when, by the event loop's clock, no other tap can have the lease

    async def run(self) -> None:
        """Read and publish whenever this tap has the lease, until cancelled."""
        try:
            while True:
                try:
                    if await self._acquire():
                        await self._read()
                    else:
                        await asyncio.sleep(LEASE_SECONDS / 4)
                except (RedisError, OSError, Unavailable) as error:
                    logger.warning("queue %s: Redis is away, it is tried again: %s", self.queue, show(str(error), 200))
                    await asyncio.sleep(random.uniform(0.2, 2))
        finally:
            with suppress(RedisError, OSError):
                await self._client.eval(_RELEASE, 1, self._lease, self._me)

    async def _acquire(self) -> bool:
        taken = await self._client.set(self._lease, self._me, nx=True, px=int(LEASE_SECONDS * 1000))
        return bool(taken) or await self._client.get(self._lease) == self._me.encode()

    async def _save(self, position: bytes) -> bool:
        """Store the position and extend the lease.

        Returns:
            whether this tap still had the lease
        """
        now = asyncio.get_running_loop().time()
        kept = await self._client.eval(_SAVE, 2, self._lease, self._position, self._me, position, int(LEASE_SECONDS * 1000))
        self._until = now + LEASE_SECONDS / 2
        return bool(kept)

    async def _read(self) -> None:
        position = await self._find_position()
        logger.info("queue %s: reading its events from %s", self.queue, position.decode())
        while await self._save(position):
            answer: Any = await self._source.xread(
                {f"{self._key}:events": position}, count=ENTRIES_AT_ONCE, block=int(BLOCK_SECONDS * 1000)
            )
            entries: list[Entry] = answer[0][1] if answer else []
            if entries and asyncio.get_running_loop().time() < self._until:  # otherwise another tap may be reading by now
                await self._publish(entries)
                position = entries[-1][0]
        logger.info("queue %s: another tap reads its events", self.queue)

    async def _find_position(self) -> bytes:
        stored: Any = await self._client.get(self._position)
        stream = f"{self._key}:events"
        if stored is None:
            last: Any = await self._source.xrevrange(stream, count=1) if self._since == "now" else []
            return bytes(last[0][0]) if last else b"0-0"
        first: Any = await self._source.xrange(stream, count=1)
        if first and stored != b"0-0" and _order(first[0][0]) > _order(stored):
            logger.warning("queue %s: BullMQ has trimmed its events up to %s; some may be missing", self.queue, first[0][0].decode())
        return bytes(stored)

    async def _publish(self, entries: Sequence[Entry]) -> None:
        events = []
        jobs: dict[bytes, Job] = {}  # by entry: one id may stand for two jobs, one after the other
        for entry in entries:
            if (id := entry[1].get(b"jobId")) is None:
                continue
            jobs[entry[0]] = job = await self._job(id.decode(errors="replace"), entry)
            if (event := translate(entry, job, results=self._results, messages=self._messages)) is not None:
                events.append(event)
        publications = [publication for event in collapse(events) for publication in self._publications(event, jobs[event.id])]
        if not publications:
            return
        for publication, answer in zip(publications, await self._log.append(publications), strict=True):
            if isinstance(answer, Unavailable):
                raise answer
            if isinstance(answer, GatewayError):
                logger.warning("queue %s: an event for %s was left out: %s", self.queue, publication.channel, answer)

    def _publications(self, event: JobEvent, job: Job) -> Iterator[Publication]:
        """The event as it is published: on the job's channel, and on its owner's."""
        published = {"type": event.type, "data": event.fields | {"job": event.job} | ({"task": job.task} if job.task else {})}
        key = None if event.type == "progress" else f"{self._key}:{event.id.decode()}"
        label = f"progress:{event.job}" if event.type == "progress" else None
        channels = {self._channel.format(id=event.job, queue=self.queue): event.final}
        if job.owner is not None:
            channels[f"user:{job.owner}"] = False
        for channel, final in channels.items():
            if (problem := channel_problem(channel)) is not None:
                logger.warning("queue %s: %s", self.queue, problem)
            else:
                yield Publication(channel, msgspec.json.encode(published | ({"final": True} if final else {})), key=key, collapse=label)

    async def _job(self, id: str, entry: Entry) -> Job:
        """What is known of a job: remembered, or looked up. BullMQ may have removed the job by now."""
        position, fields = entry
        added = position if fields.get(b"event") == b"added" else None
        known = self._jobs.get(id)
        # After the end of a job, or of all of them, BullMQ may give its id to the job of somebody else.
        if known is None or added not in (None, known.added):
            found: Any = await self._source.hmget(f"{self._key}:{id}", ["name", "data", "ats"])
            name, data, attempts = found
            self._jobs[id] = known = Job.parse(fields.get(b"name") or name, data, attempts)
            known.added = added
        self._jobs.move_to_end(id)
        while len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)
        return known


def _order(id: bytes) -> tuple[int, ...]:
    return tuple(map(int, id.split(b"-")))


async def run_taps(taps: Iterable[Tap]) -> None:
    """Run taps until cancelled, or until one of them fails with an error that trying again does not mend."""
    await until_one_ends(*(tap.run() for tap in taps))
