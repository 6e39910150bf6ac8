"""Queue: the demo's jobs as Celery tasks, which run in a separate worker process, if Celery is installed.

    python -m gateway.pages.queue <redis> <prefix> <speed>     the worker; it ends with its standard input

The worker publishes through Redis, as any worker does, and shares nothing else with the gateway.
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
from gateway.store.client import redis_client
from gateway.store.log import Log

TASK: Final = "gateway.demo.run"
QUEUE: Final = "gateway-demo"
AT_ONCE: Final = 20  # jobs in one worker; threads will do, because these jobs only wait


def is_installed() -> bool:
    """Whether Celery is installed."""
    return importlib.util.find_spec("celery") is not None


def make_app(url: str, run: Callable[..., None] | None = None) -> Any:
    """The Celery app, for the gateway and for the worker.

    Args:
        url: of Redis
        run: what the task does; given only in the worker
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
        speed: how many times faster than usual it works
        kind: which of ``KINDS``
        fields: the job's channel, title and start, as in its ``queued`` event
    """
    client = redis_client(url)
    try:
        await KINDS[kind][1](Job(**fields, log=Log(client, prefix), speed=speed))
    finally:
        await client.aclose()


@contextmanager
def worker(url: str, prefix: str, speed: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker while this is entered. It has a session of its own, so that Ctrl-C reaches only us, and we end it."""
    command = [sys.executable, "-m", "gateway.pages.queue", url, prefix, str(speed)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)  # noqa: S603
    try:
        yield process
    finally:
        process.kill()  # not gently, because nobody needs the jobs of a demo that is over
        process.communicate()


class QueuedWorkers(Workers):
    """Workers whose jobs are tasks on a queue. If the worker process is gone, the jobs run in this process.

    Args:
        url: of Redis
        prefix: of its keys
        client: for that Redis, closed by ``run``
        log: publishes through that client
        speed: how many times faster than usual they work
    """

    def __init__(self, url: str, prefix: str, client: Redis, log: Log, speed: float = 1.0) -> None:
        super().__init__(client, log, speed)
        self._options = (url, prefix, speed)
        self._process: subprocess.Popen[bytes] | None = None
        self._app: Any = None
        self._loading = threading.Lock()  # Celery imports parts of itself on first use, which is not safe in two threads at once

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run a worker, and let jobs be started, while this is entered."""
        with worker(*self._options) as self._process:
            async with super().run():
                yield

    async def start(self, kind: str) -> str:
        """As ``Workers.start``."""
        with suppress(RedisError, OSError):  # if Redis is away, the next step fails and tells so
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
    """Run the worker until its standard input ends."""
    # The demo holds the other end of the standard input, which is closed however the demo ends, even by SIGKILL.
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()

    def run(kind: str, fields: dict[str, Any]) -> None:
        asyncio.run(run_job(url, prefix, float(speed), kind, fields))

    options = ("--pool=threads", f"--concurrency={AT_ONCE}", "--without-gossip", "--without-mingle", "--without-heartbeat")
    make_app(url, run).worker_main(["worker", "--loglevel=error", *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
