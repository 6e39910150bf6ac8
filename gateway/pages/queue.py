"""Queue: the demo's jobs as Celery tasks, run by a worker process of their own.

    python -m gateway.pages.queue <redis> <prefix> <speed>     the worker; ends when its standard input does

Only where Celery is installed. The worker publishes through Redis, as any worker does; it and the gateway share nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import Unavailable
from gateway.pages.workers import KINDS, MAX_JOBS, Job, Workers
from gateway.store.connect import redis_client
from gateway.store.log import Log

TASK: Final = "gateway.demo.run"
QUEUE: Final = "gateway-demo"
AT_ONCE: Final = 20  # threads: what these jobs do is wait


def is_installed() -> bool:
    """Whether there is a Celery to run jobs with."""
    return importlib.util.find_spec("celery") is not None


def make_app(url: str, run: Callable[..., None] | None = None) -> Any:
    """The Celery app of both sides.

    Args:
        url: of Redis
        run: what the task does; only the worker knows
    """
    from celery import Celery  # noqa: PLC0415 - optional

    app = Celery("gateway-demo", broker=url)
    app.conf.update(
        task_default_queue=QUEUE, task_ignore_result=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True
    )
    if run is not None:
        app.task(name=TASK)(run)
    return app


async def run_job(url: str, prefix: str, speed: float, kind: str, fields: dict[str, Any]) -> None:
    """Do a job to its end, over a connection of its own.

    Args:
        url: of Redis
        prefix: of its keys
        speed: how much faster than life it works
        kind: which of ``KINDS``
        fields: those of ``Job`` that its ``queued`` event told
    """
    client = redis_client(url)
    try:
        await KINDS[kind][1](Job(**fields, log=Log(client, prefix), speed=speed))
    finally:
        await client.aclose()


@contextmanager
def worker(url: str, prefix: str, speed: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker until left. It has no session in common with the terminal: Ctrl-C ends it through us."""
    command = [sys.executable, "-m", "gateway.pages.queue", url, prefix, str(speed)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)  # noqa: S603
    try:
        yield process
    finally:
        process.kill()  # jobs of a demo that is over are of use to nobody
        process.communicate()


class QueuedWorkers(Workers):
    """As Workers, but a job is a task on a queue. If the worker process is gone the jobs run here.

    Args:
        url: of Redis
        prefix: of its keys
        client: a connection to Redis, closed by ``run``
        log: publishes over that connection
        speed: how much faster than life they work
    """

    def __init__(self, url: str, prefix: str, client: Redis, log: Log, speed: float = 1.0) -> None:
        super().__init__(client, log, speed)
        self._options = (url, prefix, speed)
        self._process: subprocess.Popen[bytes] | None = None
        self._app: Any = None
        self._loading = threading.Lock()  # Celery loads itself piece by piece at its first use, which two threads may not share

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Have a worker while this is entered."""
        with worker(*self._options) as self._process:
            async with super().run():
                yield

    async def start(self, kind: str) -> str:
        """As ``Workers.start``."""
        with suppress(RedisError, OSError):  # which is told by what comes next
            if await self._client.llen(QUEUE) >= MAX_JOBS:
                raise Unavailable(f"{MAX_JOBS} jobs are waiting, more are not allowed: wait for one to end", retry_after=5)
        return await super().start(kind)

    def _choose(self, kind: str) -> Callable[[Job], Awaitable[None]]:
        if self._process is None or self._process.poll() is not None:
            return super()._choose(kind)
        return partial(self._send, kind)

    async def _send(self, kind: str, job: Job) -> None:
        fields = {"channel": job.channel, "title": job.title, "started": job.started}
        await asyncio.to_thread(self._put, kind, fields)  # Celery's client blocks

    def _put(self, kind: str, fields: dict[str, Any]) -> None:
        with self._loading:
            self._app = self._app or make_app(self._options[0])
            self._app.send_task(TASK, (kind, fields), retry=False)


def main(url: str, prefix: str, speed: str) -> None:
    """Be the worker."""
    # Whatever ends the demo, SIGKILL too, closes the other end.
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()

    def run(kind: str, fields: dict[str, Any]) -> None:
        asyncio.run(run_job(url, prefix, float(speed), kind, fields))

    options = ("--pool=threads", f"--concurrency={AT_ONCE}", "--without-gossip", "--without-mingle", "--without-heartbeat")
    make_app(url, run).worker_main(["worker", "--loglevel=error", *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
