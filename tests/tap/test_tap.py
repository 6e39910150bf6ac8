"""The tap on streams as BullMQ writes them: which events it publishes, and how often. tests/browser has the real BullMQ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.embedded import free_port
from gateway.store.client import redis_client
from gateway.store.log import Log
from gateway.tap import tap as module
from gateway.tap.tap import Tap


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(module, "BLOCK_SECONDS", 0.05)


Add = Callable[..., Any]


@pytest.fixture
def add(redis: Redis) -> Add:
    """Writes entries as BullMQ does: event, job, and fields."""

    async def add(event: str, job: str, **fields: str) -> str:
        if event == "added":
            await redis.hset(f"bull:films:{job}", mapping={"name": "cut", "data": json.dumps({"notify_owner": "ann"})})
        entry: dict[Any, Any] = {"event": event, "jobId": job, **fields}
        id: Any = await redis.xadd("bull:films:events", entry)
        return str(id.decode())

    return add


@asynccontextmanager
async def running(url: str, **options: Any) -> AsyncIterator[Tap]:
    client = redis_client(url)
    log = Log(client)
    await log.open()
    tap = Tap("films", client, client, log, prefix="notify", **{"since": "0"} | options)
    task = asyncio.create_task(tap.run())
    yield tap
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.aclose()


async def read(redis: Redis, channel: str) -> list[Any]:
    entries: Any = await redis.lrange(f"notify:log:{{{channel}}}", 0, -1)
    return [json.loads(entry.split(b"\n", 1)[1]) for entry in entries]


async def wait_position(redis: Redis, position: str) -> None:
    """Wait until a tap has read up to here and stored that position."""
    async with asyncio.timeout(30):
        while await redis.get("notify:tap:{bull:films}:position") != position.encode():
            await asyncio.sleep(0.01)


async def types(redis: Redis, job: str) -> list[str]:
    return [event["type"] for event in await read(redis, f"jobs:{job}")]


async def test_the_events_of_a_job_go_to_its_followers_and_its_owner(redis_url: str, redis: Redis, add: Add) -> None:
    await add("added", "1", name="cut")
    await add("waiting", "1")
    await add("active", "1", prev="waiting")
    last = await add("completed", "1", returnvalue='"secret"', prev="active")
    async with running(redis_url):
        await wait_position(redis, last)

    assert await read(redis, "jobs:1") == [
        {"type": "queued", "data": {"job": "1", "task": "cut"}},
        {"type": "started", "data": {"job": "1", "task": "cut"}},
        {"type": "completed", "data": {"job": "1", "task": "cut"}, "final": True},
    ]
    assert [(event["type"], "final" in event) for event in await read(redis, "user:ann")] == [
        ("queued", False),
        ("started", False),
        ("completed", False),
    ]


async def test_a_job_whose_beginning_was_not_read_is_looked_up(redis_url: str, redis: Redis, add: Add) -> None:
    await redis.hset("bull:films:1", mapping={"name": "cut", "data": '{"notify_owner":"ann"}', "ats": "1"})
    last = await add("delayed", "1", delay="5")
    async with running(redis_url):
        await wait_position(redis, last)

    expected = [{"type": "retrying", "data": {"job": "1", "task": "cut"}}]
    assert [await read(redis, channel) for channel in ("jobs:1", "user:ann")] == [expected, expected]


async def test_a_job_with_the_id_of_an_earlier_one_is_told_to_its_own_owner(redis_url: str, redis: Redis, add: Add) -> None:
    async with running(redis_url):
        await wait_position(redis, await add("added", "1"))
        async with redis.pipeline(transaction=True) as together:  # as after BullMQ's obliterate, when ids count from 1 again
            together.hset("bull:films:1", mapping={"name": "copy", "data": '{"notify_owner":"bob"}'})
            for event, prev in (("failed", "active"), ("added", ""), ("completed", "active")):
                together.xadd("bull:films:events", {"event": event, "jobId": "1", "prev": prev})
            *_, last = await together.execute()
        await wait_position(redis, last.decode())

    told = {owner: [(event["type"], event["data"]["task"]) for event in await read(redis, f"user:{owner}")] for owner in ("ann", "bob")}
    assert told == {"ann": [("queued", "cut"), ("failed", "cut")], "bob": [("queued", "copy"), ("completed", "copy")]}


async def test_only_the_jobs_of_late_are_remembered(redis_url: str, redis: Redis, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_JOBS", 2)
    async with running(redis_url) as tap:
        for job in ("1", "2", "1", "3"):
            await wait_position(redis, await add("added", job))

        assert list(tap._jobs) == ["1", "3"]


async def test_an_entry_that_is_read_again_is_not_published_again(redis_url: str, redis: Redis, add: Add) -> None:
    first = await add("added", "1")
    await add("active", "1", prev="waiting")
    await add("progress", "1", data="50")
    last = await add("failed", "1", failedReason="no disk", prev="active")
    async with running(redis_url):
        await wait_position(redis, last)
    told = await redis.lrange("notify:log:{jobs:1}", 0, -1)
    await redis.set("notify:tap:{bull:films}:position", first)  # as if the tap had died before it stored the position
    async with running(redis_url):
        await wait_position(redis, last)

    assert await types(redis, "1") == ["queued", "started", "failed"]
    assert await redis.lrange("notify:log:{jobs:1}", 0, -1) == told


async def test_of_a_jobs_progress_the_newest_is_kept(redis_url: str, redis: Redis, add: Add) -> None:
    async with running(redis_url):
        for percent in ("10", "20"):
            await wait_position(redis, await add("progress", "1", data=percent))

    assert [event["data"]["percent"] for event in await read(redis, "jobs:1")] == [20]


async def test_the_first_tap_begins_with_what_comes_from_now_on(redis_url: str, redis: Redis, add: Add) -> None:
    before = await add("added", "1")
    async with running(redis_url, since="now"):
        await wait_position(redis, before)
        await wait_position(redis, await add("added", "2"))

    assert [await types(redis, job) for job in ("1", "2")] == [[], ["queued"]]


async def test_events_that_were_trimmed_before_they_were_read_are_warned_of(
    redis_url: str, redis: Redis, add: Add, caplog: pytest.LogCaptureFixture
) -> None:
    first = await add("added", "1")
    async with running(redis_url):
        await wait_position(redis, first)
    warned = [caplog.text]
    await redis.set("notify:tap:{bull:films}:position", "1-0")
    async with running(redis_url):
        await wait_position(redis, first)
    warned.append(caplog.text)

    assert ["BullMQ has trimmed its events" in text for text in warned] == [False, True]


async def test_a_queue_whose_events_are_gone_is_read_on(redis_url: str, redis: Redis, add: Add, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await redis.set("notify:tap:{bull:films}:position", "1-0")
    async with running(redis_url), asyncio.timeout(30):
        while "reading its events from 1-0" not in caplog.text:
            await asyncio.sleep(0.01)
        await wait_position(redis, await add("added", "1"))

    assert await types(redis, "1") == ["queued"]


async def test_a_redis_that_was_away_is_read_on(
    redis_url: str, redis: Redis, add: Add, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 0.01)
    async with running(redis_url), asyncio.timeout(30):
        await wait_position(redis, await add("added", "1"))
        while "it is tried again" not in caplog.text:
            await redis.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.01)
        await wait_position(redis, await add("added", "2"))

    assert await types(redis, "2") == ["queued"]


async def test_an_event_that_redis_refuses_is_published_later(
    redis_url: str, redis: Redis, add: Add, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 0.01)
    async with running(redis_url), asyncio.timeout(30):
        await wait_position(redis, "0-0")
        await redis.execute_command("ACL", "SETUSER", "default", "-fcall")  # as a master that has become a replica refuses it
        last = await add("added", "1")
        while "Redis refused the event" not in caplog.text:
            await asyncio.sleep(0.01)
        await redis.delete("bull:films:1")  # by BullMQ, whose job has ended meanwhile
        await redis.execute_command("ACL", "SETUSER", "default", "+fcall")
        await wait_position(redis, last)

    assert [len(await read(redis, channel)) for channel in ("jobs:1", "user:ann")] == [1, 1]


async def test_a_quiet_queue_is_waited_for_and_not_polled(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_SECONDS", 2.0)
    async with running(redis_url), running(redis_url):
        await wait_position(redis, "0-0")
        await asyncio.sleep(0.05)
        stats = await redis.info("commandstats")

    assert stats.get("cmdstat_xread", {}).get("calls", 0) <= 1
    assert stats["cmdstat_set"]["calls"] < 10  # the tap without the lease waits as well


async def test_a_queue_that_was_quiet_for_long_is_read_on(redis_url: str, redis: Redis, add: Add) -> None:
    async with running(redis_url), asyncio.timeout(30):
        while (await redis.info("commandstats")).get("cmdstat_xread", {}).get("calls", 0) < 3:
            await asyncio.sleep(0.01)
        await wait_position(redis, await add("added", "1"))

    assert await types(redis, "1") == ["queued"]


async def test_a_redis_that_stays_away_is_tried_again_with_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 1_000)
    async with redis_client(f"redis://127.0.0.1:{free_port()}") as client, asyncio.timeout(30):
        task = asyncio.create_task(Tap("films", client, client, Log(client), prefix="notify").run())
        while "it is tried again" not in caplog.text:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])

    assert caplog.text.count("it is tried again") == 1


async def test_results_and_error_texts_are_published_if_that_is_asked_for(redis_url: str, redis: Redis, add: Add) -> None:
    await add("completed", "1", returnvalue="[1]", prev="active")
    last = await add("failed", "2", failedReason="no disk", prev="active")
    async with running(redis_url, results=True, messages=True):
        await wait_position(redis, last)

    told = [(await read(redis, f"jobs:{job}"))[0]["data"] for job in ("1", "2")]
    assert told == [{"result": [1], "job": "1"}, {"error": "Failed", "message": "no disk", "job": "2"}]


async def test_half_a_character_in_what_a_job_tells_ends_no_tap(redis_url: str, redis: Redis, add: Add) -> None:
    # as Node writes a text that was cut within an emoji
    last = await add("progress", "1", data=r'{"percent":40,"text":"cut \ud83d","title":"whole \ud83d\ude00"}')
    async with running(redis_url), asyncio.timeout(30):
        await wait_position(redis, last)

    [event] = await read(redis, "jobs:1")
    assert event["data"] == {"percent": 40, "text": "cut ?", "title": "whole \U0001f600", "job": "1"}


async def test_a_lost_lease_loses_no_event(redis_url: str, redis: Redis, add: Add) -> None:
    lease = "notify:tap:{bull:films}:lease"
    async with running(redis_url) as first, running(redis_url) as second:
        await wait_position(redis, await add("added", "1"))
        holder = first if await redis.get(lease) == first._me.encode() else second
        other = second if holder is first else first
        await redis.set(lease, "nobody", px=300)  # as if the holder had been asleep for too long
        for number in range(2, 40):
            last = await add("added", str(number))
            if number == 20:
                await redis.set(lease, other._me, px=2000)
            await asyncio.sleep(0.005)
        await wait_position(redis, last)

        assert [await types(redis, str(number)) for number in range(1, 40)] == [["queued"]] * 39


async def test_only_one_tap_has_the_lease_and_it_keeps_it(redis: Redis) -> None:
    first, second = (Tap("films", redis, redis, Log(redis), prefix="notify") for _ in range(2))

    assert [await tap._acquire() for tap in (first, second, first, second)] == [True, False, True, False]
    assert 0 < await redis.pttl("notify:tap:{bull:films}:lease") <= 2_000  # or the lease of a tap that dies would stay


async def test_the_lease_is_given_back_at_the_end(redis_url: str, redis: Redis, add: Add) -> None:
    async with running(redis_url) as tap:
        await wait_position(redis, await add("added", "1"))
        held = await redis.get("notify:tap:{bull:films}:lease")

    assert held == tap._me.encode()
    assert await redis.get("notify:tap:{bull:films}:lease") is None


async def test_one_jobs_events_that_cannot_be_published_hold_up_no_other(
    redis_url: str, redis: Redis, add: Add, caplog: pytest.LogCaptureFixture
) -> None:
    await add("added", "no channel")
    await add("progress", "1", data=json.dumps("x" * 70_000))
    await redis.xadd("bull:films:events", {"event": "drained"})
    last = await add("added", "2")
    async with running(redis_url):
        await wait_position(redis, last)

    assert await types(redis, "2") == ["queued"]
    assert ["channel 'jobs:no channel'" in caplog.text, "an event for jobs:1 was left out" in caplog.text] == [True, True]


async def test_events_of_several_queues_have_channels_of_their_own_if_asked(redis_url: str, redis: Redis, add: Add) -> None:
    last = await add("added", "1")
    async with running(redis_url, channel="jobs:{queue}-{id}"):
        await wait_position(redis, last)

    assert [event["type"] for event in await read(redis, "jobs:films-1")] == ["queued"]
