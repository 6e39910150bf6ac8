"""Workers: what each kind of job leaves in its log, how many there may be, and how they end."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from gateway.core.page import Page
from gateway.embedded import embedded_server, free_port
from gateway.errors import Unavailable, Unprocessable
from gateway.pages.workers import KINDS, MAX_JOBS, Job, Workers
from gateway.store.client import redis_client
from gateway.store.log import Log
from tests.support.waiting import until

FAST = 500.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded_server() as url:
        yield url


@pytest.fixture
async def log(url: str) -> AsyncIterator[Log]:
    client = redis_client(url)
    log = Log(client)
    await log.open()
    yield log
    await client.aclose()


def make_workers(url: str, speed: float = FAST) -> Workers:
    client = redis_client(url)
    return Workers(client, Log(client), speed)


async def read(log: Log, channel: str) -> list[dict[str, Any]]:
    page = (await log.read([(channel, 0, 1_000_000)]))[0]
    assert isinstance(page, Page)
    return [msgspec.json.decode(item.event.json) for item in page.items if item.event is not None]


async def run_job(workers: Workers, log: Log, kind: str) -> list[dict[str, Any]]:
    """Start a job, and read its log when it is over."""
    async with workers.run():
        channel = await workers.start(kind)
        async with asyncio.timeout(30):
            while not (events := await read(log, channel))[-1].get("final"):
                await asyncio.sleep(0.01)
    return events


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("transcode", ["queued", "started", "progress", "completed"]),
        ("payment", ["queued", "started", "retrying", "started", "completed"]),
        ("mailing", ["queued", "started", "progress", "completed"]),
        ("report", ["queued", "started", "progress", "progress", "progress", "progress", "completed"]),
        ("import", ["queued", "started", "progress", "failed"]),
    ],
)
async def test_each_kind_of_job_leaves_its_events_in_the_log(url: str, log: Log, kind: str, types: list[str]) -> None:
    events = await run_job(make_workers(url), log, kind)

    assert [event["type"] for event in events] == types
    assert [event.get("final", False) for event in events] == [False] * (len(types) - 1) + [True]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_event_says_the_whole_state(url: str, log: Log, kind: str) -> None:
    events = await run_job(make_workers(url), log, kind)

    started = events[0]["data"]["started"]
    percents = [event["data"]["percent"] for event in events]
    assert all(event["data"]["title"] == KINDS[kind][0] and event["data"]["text"] for event in events)
    assert all(event["data"]["started"] == started for event in events)
    assert percents == sorted(percents)
    assert percents[-1] == (62 if kind == "import" else 100)


async def test_a_job_is_in_the_log_when_it_was_started(url: str, log: Log) -> None:
    workers = make_workers(url, speed=0.001)
    async with workers.run():
        channel = await workers.start("report")

        assert re.fullmatch(r"jobs:report-[0-9a-f]{6}", channel)
        assert [event["type"] for event in await read(log, channel)] == ["queued"]


async def test_an_unknown_kind_is_refused_by_name() -> None:
    workers = make_workers("redis://127.0.0.1:1")

    with pytest.raises(Unprocessable, match=r"^kind 'te\\x00a': transcode, payment, mailing, report or import is expected$"):
        await workers.start("te\0a")


async def test_only_a_limited_number_of_jobs_run_at_once(url: str, log: Log) -> None:
    client = redis_client(f"{url}?socket_timeout=60&timeout=60")  # on a busy machine so many take longer than the usual three seconds
    workers = Workers(client, Log(client), speed=0.001)
    async with workers.run():
        results = await asyncio.gather(*(workers.start("payment") for _ in range(MAX_JOBS + 10)), return_exceptions=True)

        refused = [result for result in results if isinstance(result, Unavailable)]
        assert len({result for result in results if isinstance(result, str)}) == MAX_JOBS
        assert [(str(e), e.retry_after) for e in refused] == [
            ("200 jobs are running, more are not allowed: wait for one to end", 5),
        ] * 10

    assert len(workers) == 0
    with pytest.raises(Unavailable, match="the workers have stopped"):
        await workers.start("payment")


async def test_a_job_that_could_not_be_queued_takes_no_place() -> None:
    workers = make_workers(f"redis://127.0.0.1:{free_port()}")
    async with workers.run():
        with pytest.raises(Unavailable, match="Redis is away"):
            await workers.start("payment")

        assert len(workers) == 0


async def test_a_job_goes_on_while_redis_takes_no_events_and_tells_its_end_afterwards() -> None:
    with embedded_server() as url:
        workers, client = make_workers(url, speed=50), redis_client(url)
        log = Log(client)
        await log.open()
        async with workers.run():
            channel = await workers.start("report")
            await client.config_set("maxmemory", 1)
            await asyncio.sleep(0.5)  # more than the job's work takes
            assert "final" not in (await read(log, channel))[-1]
            assert len(workers) == 1
            await client.config_set("maxmemory", 0)
            await until(lambda: not workers)

        last = (await read(log, channel))[-1]
        await client.aclose()
    assert (last["type"], last["final"], last["data"]["percent"]) == ("completed", True, 100)


async def test_a_worker_that_dies_takes_no_other_with_it(
    url: str, log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(job: Job) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(KINDS, "broken", ("Break", broken))
    workers = make_workers(url, speed=20)
    with caplog.at_level(logging.ERROR):
        async with workers.run():
            channel = await workers.start("payment")
            await workers.start("broken")
            await until(lambda: not workers)

    assert (await read(log, channel))[-1]["type"] == "completed"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
