"""Tap: publishes what happens to the jobs of a BullMQ queue, from the stream of events that BullMQ writes anyway.

The Node workers need no change. Of several taps one reads a queue, the one that holds a lease in Redis. It stores how far it has
read after it has published, so that a tap that dies, or loses its lease, has the next one read again from there: at least once, and
the idempotency keys make that once. Only progress has none, there are too many: of what is read in one go the newest is published,
and none that another event of its job follows, so that reading it again never shows an ended job as running.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.event import channel_problem, show
from gateway.errors import GatewayError, Unavailable
from gateway.store.log import Log, Publication

logger = logging.getLogger("gateway.tap")

LEASE: Final = 10.0  # seconds that a tap which has died keeps the others from reading
BLOCK: Final = 1.0  # seconds that one read waits for something new
AT_ONCE: Final = 100  # entries
KNOWN: Final = 10_000  # jobs whose name and owner are remembered
OWNER: Final = "notify_owner"  # of a job's data, as in our integrations

_KEEP: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

Entry = tuple[bytes, Mapping[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is told, and where.

    Attributes:
        channel: with ``{id}`` and, where the ids of several queues may be the same, ``{queue}``
        results: whether ``completed`` has what the job returned
        messages: whether ``failed`` has the error's text; it may hold what is not meant for users
    """

    channel: str = "jobs:{id}"
    results: bool = False
    messages: bool = False


@dataclass(slots=True)
class Job:
    """What is known of a job besides its events."""

    task: str | None
    owner: str | None
    started: bool


@dataclass(frozen=True, slots=True)
class Told:
    """An event of ours."""

    id: bytes
    job: str
    type: str
    fields: dict[str, Any]

    @property
    def final(self) -> bool:
        return self.type in ("completed", "failed")


def _value(data: bytes | None) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(data or b"null")
    return show(data)


def _progress(data: bytes | None) -> dict[str, Any]:
    match _value(data):
        case dict() as fields:
            return fields
        case int() | float() as percent:
            return {"percent": percent}
        case value:
            return {"value": value}


def translate(entry: Entry, job: Job, words: Words) -> Told | None:
    """What an entry of BullMQ's stream is in our words, if anything; a job's start is noted.

    BullMQ 5 and 6. A job whose attempt failed says ``delayed`` or ``waiting``; ``failed`` is the end, and so is ``removed``, where
    the job had not ended.
    """
    id, fields = entry
    previous = fields.get(b"prev")

    def told(type: str, more: dict[str, Any] | None = None) -> Told:
        return Told(id, fields[b"jobId"].decode(errors="replace"), type, more or {})

    match fields.get(b"event"):
        case b"added":
            job.started = False
            return told("queued")
        case b"active":
            job.started = True
            return told("started")
        case b"progress":
            return told("progress", _progress(fields.get(b"data")))
        case b"waiting" if previous in (b"completed", b"failed"):
            job.started = False
            return told("queued")  # again, by hand
        case b"waiting" if previous == b"active":
            return told("retrying")
        case b"delayed" if job.started:
            return told("retrying")
        case b"completed":
            return told("completed", {"result": _value(fields.get(b"returnvalue"))} if words.results else {})
        case b"failed":
            text = {"message": fields.get(b"failedReason", b"").decode(errors="replace")} if words.messages else {}
            return told("failed", {"error": "Failed"} | text)
        case b"removed" if previous not in (None, b"completed", b"failed", b"unknown"):
            return told("failed", {"error": "Removed"})
    return None


def collapse(events: Sequence[Told]) -> Iterator[Told]:
    """All but the progress that another event of the same job follows."""
    newest = {event.job: event for event in events}
    return (event for event in events if event.type != "progress" or newest[event.job] is event)


class Tap:
    """One queue's tap.

    Args:
        queue: its name
        source: the Redis of BullMQ
        client: the gateway's Redis, where the lease and the position are kept
        log: publishes there
        prefix: the gateway's
        bull: BullMQ's prefix
        words: what is told
        since: where the very first tap begins: ``now`` or ``0``
    """

    def __init__(
        self, queue: str, source: Redis, client: Redis, log: Log, *, prefix: str, bull: str = "bull", words: Words, since: str = "now"
    ) -> None:
        self.queue = queue
        self._source, self._client, self._log, self._words, self._since = source, client, log, words, since
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._key = f"{bull}:{queue}"
        name = f"{prefix}:tap:{{{self._key}}}"
        self._lease, self._position = f"{name}:lease", f"{name}:position"
        self._me = secrets.token_hex(8)
        self._until = 0.0

    async def run(self) -> None:
        """Read and publish whenever this tap has the lease, until cancelled."""
        try:
            while True:
                try:
                    if await self._take():
                        await self._work()
                    else:
                        await asyncio.sleep(LEASE / 4)
                except (RedisError, OSError, Unavailable) as error:
                    logger.warning("queue %s: Redis is away, it is tried again: %s", self.queue, show(str(error), 200))
                    await asyncio.sleep(random.uniform(0.2, 2))
        finally:
            with suppress(RedisError, OSError):
                await self._client.eval(_RELEASE, 1, self._lease, self._me)

    async def _take(self) -> bool:
        now = asyncio.get_running_loop().time()
        taken = await self._client.set(self._lease, self._me, nx=True, px=int(LEASE * 1000))
        taken = taken or await self._client.get(self._lease) == self._me.encode()
        self._until = now + LEASE / 2 if taken else 0.0
        return bool(taken)

    async def _keep(self, position: bytes) -> bool:
        """Store the position and keep the lease; whether we still had it."""
        now = asyncio.get_running_loop().time()
        kept = await self._client.eval(_KEEP, 2, self._lease, self._position, self._me, position, int(LEASE * 1000))
        self._until = now + LEASE / 2
        return bool(kept)

    async def _work(self) -> None:
        position = await self._begin()
        logger.info("queue %s: reading its events from %s", self.queue, position.decode())
        while await self._keep(position):
            answer: Any = await self._source.xread({f"{self._key}:events": position}, count=AT_ONCE, block=int(BLOCK * 1000))
            entries: list[Entry] = answer[0][1] if answer else []
            if entries and asyncio.get_running_loop().time() < self._until:  # else another tap may be reading
                await self._publish(entries)
                position = entries[-1][0]
        logger.info("queue %s: another tap reads its events", self.queue)

    async def _begin(self) -> bytes:
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
        for entry in entries:
            if (id := entry[1].get(b"jobId")) is None:
                continue
            job = await self._job(id.decode(errors="replace"), entry[1])
            if (told := translate(entry, job, self._words)) is not None:
                events.append(told)
        publications = [publication for told in collapse(events) for publication in self._publications(told)]
        if not publications:
            return
        for publication, answer in zip(publications, await self._log.append(publications), strict=True):
            if isinstance(answer, Unavailable):
                raise answer
            if isinstance(answer, GatewayError):
                logger.warning("queue %s: an event for %s was left out: %s", self.queue, publication.channel, answer)

    def _publications(self, told: Told) -> Iterator[Publication]:
        job = self._jobs[told.job]
        event = {"type": told.type, "data": told.fields | {"job": told.job} | ({"task": job.task} if job.task else {})}
        key = None if told.type == "progress" else f"{self._key}:{told.id.decode()}"
        label = f"progress:{told.job}" if told.type == "progress" else None
        channels = {self._words.channel.format(id=told.job, queue=self.queue): told.final}
        if job.owner is not None:
            channels[f"user:{job.owner}"] = False
        for channel, final in channels.items():
            if (problem := channel_problem(channel)) is not None:
                logger.warning("queue %s: %s", self.queue, problem)
            else:
                yield Publication(channel, msgspec.json.encode(event | ({"final": True} if final else {})), key=key, collapse=label)

    async def _job(self, id: str, fields: Mapping[bytes, bytes]) -> Job:
        """What is known of a job: remembered, or looked up; one that BullMQ has removed by now has no name."""
        if id not in self._jobs:
            found: Any = await self._source.hmget(f"{self._key}:{id}", ["name", "data", "ats"])
            task = fields.get(b"name") or found[0]
            self._jobs[id] = Job(task.decode(errors="replace") if task else None, _owner(found[1]), started=(found[2] or b"0") != b"0")
        self._jobs.move_to_end(id)
        while len(self._jobs) > KNOWN:
            self._jobs.popitem(last=False)
        return self._jobs[id]


def _owner(data: bytes | None) -> str | None:
    value = _value(data)
    owner = value.get(OWNER) if isinstance(value, dict) else None
    return str(owner) if isinstance(owner, str | int) else None


def _order(id: bytes) -> tuple[int, ...]:
    return tuple(map(int, id.split(b"-")))


async def run_taps(taps: Iterable[Tap]) -> None:
    """Run taps until cancelled, or one of them fails in a way that trying again does not cure."""
    async with asyncio.TaskGroup() as tasks:
        for tap in taps:
            tasks.create_task(tap.run())
