"""The demo's queue: jobs run as tasks of a real Celery worker on a real Valkey, and nothing is left of it at the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.embedded import embedded_server
from gateway.errors import Unavailable
from gateway.pages.queue import QUEUE, QueuedWorkers, is_installed, make_app, worker
from gateway.pages.workers import MAX_JOBS
from gateway.store.client import redis_client
from gateway.store.log import Log
from tests.conftest import need
from tests.pages.test_workers import FAST, read


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    need(is_installed(), "Celery: pip install celery")
    with embedded_server() as url:
        yield url


def make_workers(url: str) -> QueuedWorkers:
    client = redis_client(url)
    return QueuedWorkers(url, "notify", client, Log(client), FAST)


async def types(workers: QueuedWorkers, url: str, kind: str) -> list[str]:
    """Start a job; the types of its events when it is over."""
    channel = await workers.start(kind)
    client = redis_client(url)
    log = Log(client)
    async with asyncio.timeout(30):
        while not (events := await read(log, channel))[-1].get("final"):
            await asyncio.sleep(0.02)
    await client.aclose()
    assert len({event["data"]["started"] for event in events}) == 1
    return [event["type"] for event in events]


async def test_a_job_is_done_by_a_worker_process_and_without_it_here(url: str) -> None:
    workers = make_workers(url)
    async with workers.run():
        by_celery = await types(workers, url, "payment")
        assert workers._app is not None
        assert workers._process is not None
        workers._process.kill()
        workers._process.wait()

        assert await types(workers, url, "payment") == by_celery == ["queued", "started", "retrying", "started", "completed"]


async def test_jobs_that_start_together_load_celery_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make_slowly(url: str) -> Any:
        made.append(url)
        time.sleep(0.05)
        return make_app(url)

    monkeypatch.setattr("gateway.pages.queue.make_app", make_slowly)
    workers = make_workers(url)
    async with workers.run():
        await asyncio.gather(*(types(workers, url, kind) for kind in ("payment", "report", "import")))

    assert made == [url]


async def test_no_more_jobs_wait_than_are_allowed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = make_workers(url)
    client = redis_client(url)
    await client.rpush(QUEUE, *(["{}"] * MAX_JOBS))
    monkeypatch.setattr("gateway.pages.queue.worker", idle_process)
    async with workers.run():
        with pytest.raises(Unavailable, match="200 jobs are waiting"):
            await workers.start("payment")
    await client.delete(QUEUE)
    await client.aclose()


@contextmanager
def idle_process(*options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_worker_ends_with_the_one_who_started_it(url: str) -> None:
    with worker(url, "notify", 1.0) as process:
        assert process.stdin is not None
        process.stdin.close()  # as if that one had been killed

        assert process.wait(20) == 0
        process.stdin = None
