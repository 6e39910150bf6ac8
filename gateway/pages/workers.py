"""Workers: the demo's jobs, which publish as real ones do, through Redis and over a connection of their own."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from gateway.core.event import show
from gateway.errors import GatewayError, Unavailable, Unprocessable
from gateway.store.log import Log, Publication

logger = logging.getLogger("gateway.pages.workers")

MAX_JOBS: Final = 200
RETRY_SECONDS: Final = 0.5


@dataclass(slots=True)
class Job:
    """A job, as its worker uses it.

    Every event holds the whole state of the job, so that the newest one is enough for a page that is opened late.

    Attributes:
        channel: on which its events are published
        title: for the page
        log: publishes the events
        speed: how many times faster than usual it works
        percent: how much is done
        started: when it was queued, in seconds since 1970
    """

    channel: str
    title: str
    log: Log
    speed: float = 1.0
    percent: int = 0
    started: float = field(default_factory=time.time)

    async def work(self, seconds: float) -> None:
        """Pretend to work for about so many seconds."""
        await asyncio.sleep(seconds * random.uniform(0.7, 1.3) / self.speed)

    async def tell(self, type: str, text: str, percent: int | None = None, *, final: bool = False, **more: Any) -> None:
        """Publish an event, as a worker should: while Redis is away the work goes on without it, but the end waits for Redis.

        Args and raises are those of ``publish``, except for what Redis causes.
        """
        while True:
            try:
                return await self.publish(type, text, percent, final=final, **more)
            except Unavailable:
                if not final:
                    return None
            await asyncio.sleep(RETRY_SECONDS)

    async def publish(
        self, type: str, text: str, percent: int | None = None, *, final: bool = False, collapse: str | None = None, **more: Any
    ) -> None:
        """Publish an event.

        Args:
            type: of the event
            text: what is being done, for the page
            percent: how much is done; as before if not given
            final: whether the job is over
            collapse: a label; the event takes the place of the newest one in the log if that has the same label
            more: further fields of the event's data

        Raises:
            GatewayError: if Redis is away, or refuses the event.
        """
        if percent is not None:
            self.percent = percent
        data = {"title": self.title, "text": text, "percent": self.percent, "started": round(self.started, 3), **more}
        event = msgspec.json.encode({"type": type, "data": data} | ({"final": True} if final else {}))
        key = f"{self.channel}:{type}" if final else None
        [answer] = await self.log.append([Publication(self.channel, event, key=key, collapse=collapse)])
        if isinstance(answer, GatewayError):
            raise answer


async def transcode(job: Job) -> None:
    """A video: a hundred progress events, of which the log keeps one at a time."""
    await job.work(0.9)
    await job.tell("started", "Reading holiday.mov", 0)
    for percent in range(1, 101):
        await job.work(0.12)
        await job.tell("progress", f"Encoding 1080p, {random.randint(71, 88)} frames a second", percent, collapse="progress")
    await job.tell("completed", "holiday.mp4 is ready, 46 MB", 100, final=True, url="/files/holiday.mp4", bytes=48_204_113)


async def payment(job: Job) -> None:
    """A payment: the bank does not answer at first, and the job tries again."""
    await job.work(0.7)
    await job.tell("started", "Asking the bank, attempt 1 of 3", 20)
    await job.work(1.8)
    await job.tell("retrying", "The bank did not answer: next attempt in 3 s", attempt=1, error="timeout")
    await job.work(3)
    await job.tell("started", "Asking the bank, attempt 2 of 3", 60)
    await job.work(1.5)
    await job.tell("completed", "Paid 49.00 EUR", 100, final=True, receipt="R-20417")


async def mailing(job: Job, letters: int = 240) -> None:
    """E-mails: n of m are sent."""
    await job.work(0.6)
    await job.tell("started", f"Sending to {letters} readers", 0)
    sent = 0
    while sent < letters:
        await job.work(0.35)
        sent = min(letters, sent + random.randint(4, 12))
        await job.tell("progress", f"{sent} of {letters} sent", sent * 100 // letters, collapse="progress", sent=sent, of=letters)
    await job.tell("completed", f"All {letters} letters are on their way", 100, final=True, sent=sent, of=letters)


async def report(job: Job) -> None:
    """A report in steps, each of them an event that stays in the log."""
    await job.work(0.5)
    steps = ("Collecting 12 months of orders", "Joining customers", "Summing up by region", "Drawing 8 charts", "Writing the PDF")
    for number, step in enumerate(steps):
        await job.tell("progress" if number else "started", f"Step {number + 1} of {len(steps)}: {step}", number * 100 // len(steps))
        await job.work(1.9)
    await job.tell("completed", "Sales report, 24 pages", 100, final=True, url="/files/sales.pdf", pages=24)


async def import_(job: Job) -> None:
    """A file with a mistake in it: the job ends without a result."""
    await job.work(0.5)
    await job.tell("started", "Reading customers.csv, 2,000 lines", 0)
    for percent in range(4, 64, 4):
        await job.work(0.3)
        await job.tell("progress", f"Line {percent * 20:,} of 2,000", percent, collapse="progress")
    await job.tell("failed", "Line 1,247: there is no country 'Atlantis'", 62, final=True, line=1247)


KINDS: Final[dict[str, tuple[str, Callable[[Job], Awaitable[None]]]]] = {
    "transcode": ("Transcode a video", transcode),
    "payment": ("Take a payment", payment),
    "mailing": ("Send a mailing", mailing),
    "report": ("Build a report", report),
    "import": ("Import a file", import_),
}


class Workers:
    """All jobs of the demo. They run whether or not a page follows them.

    Args:
        client: for Redis, closed by ``run``
        log: publishes through that client
        speed: how many times faster than usual they work
    """

    def __init__(self, client: Redis, log: Log, speed: float = 1.0) -> None:
        self._client = client
        self._log = log
        self._speed = speed
        self._tasks: asyncio.TaskGroup | None = None
        self._jobs: dict[str, asyncio.Task[None] | None] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Let jobs be started while this is entered. Those that still run when it is left are cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    yield
                finally:
                    for task in self._jobs.values():
                        if task is not None:
                            task.cancel()
        finally:
            self._tasks = None
            await self._client.aclose()

    async def start(self, kind: str) -> str:
        """Start a job. When this returns, its ``queued`` event has been recorded.

        Args:
            kind: which of ``KINDS``

        Returns:
            the job's channel

        Raises:
            Unprocessable: if there is no such kind.
            Unavailable: if too many jobs are running, or Redis is away.
        """
        if kind not in KINDS:
            *others, last = KINDS
            raise Unprocessable(f"kind {show(kind)}: {', '.join(others)} or {last} is expected")
        if self._tasks is None:
            raise Unavailable("the workers have stopped")
        if len(self._jobs) >= MAX_JOBS:
            raise Unavailable(f"{MAX_JOBS} jobs are running, more are not allowed: wait for one to end", retry_after=5)
        work = self._choose(kind)
        job = Job(f"jobs:{kind}-{secrets.token_hex(3)}", KINDS[kind][0], self._log, self._speed)
        self._jobs[job.channel] = None  # its place is taken before anything is awaited
        try:
            await job.publish("queued", "Waiting for a worker")
        except GatewayError:
            del self._jobs[job.channel]
            raise
        self._jobs[job.channel] = self._tasks.create_task(self._work(job, work))
        return job.channel

    def _choose(self, kind: str) -> Callable[[Job], Awaitable[None]]:
        """The function that does a job of this kind."""
        return KINDS[kind][1]

    async def _work(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        try:
            await work(job)
        except Exception:
            # Not raised, or a job that fails would end all others.
            logger.exception("%s: its worker has died", job.channel)
        finally:
            del self._jobs[job.channel]
