"""Long polling: what an answer contains."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid

import httpx
from redis import Redis as SyncRedis

from gateway import Settings, create_app
from gateway.errors import RESTART
from tests.conftest import Publish
from tests.support.figures import until_live
from tests.support.servers import Server
from tests.support.wire import Wire, request


async def test_a_poll_is_answered_when_an_event_comes(server: Server, publish: Publish) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    async with httpx.AsyncClient() as client:
        waiting = asyncio.ensure_future(client.get(f"{server.http}/poll?channel={channel}&wait=20"))
        await until_live(server.http, 1)
        started = time.monotonic()
        id = await publish(channel, "completed", final=True)
        answer = (await waiting).json()

    assert [event["id"] for event in answer["events"]] == [id]
    assert answer["channels"] == {channel: id}
    assert answer["gaps"] == []
    assert time.monotonic() - started < 15  # of the 20 that it would wait


async def test_a_gap_is_told_with_what_is_left(server: Server, publish: Publish) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    for i in range(5):
        await publish(channel, "progress", i, keep=3)
    async with httpx.AsyncClient() as client:
        answer = (await client.get(f"{server.http}/poll?channel={channel}&since=0")).json()

    assert answer["gaps"] == [channel]
    assert [event["data"] for event in answer["events"]] == [2, 3, 4]


async def test_a_long_log_comes_in_several_answers(server: Server, publish: Publish) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    for i in range(100):
        await publish(channel, "progress", [i, "x" * 10_000], keep=1_000)
    got: list[int] = []
    cursor, answers = "0", 0
    async with httpx.AsyncClient() as client:
        while len(got) < 100:
            answer = (await client.get(f"{server.http}/poll?channel={channel},{cursor}&wait=1")).json()
            got += [event["data"][0] for event in answer["events"]]
            cursor = answer["channels"][channel]
            answers += 1
            assert len(json.dumps(answer)) < 600_000

    assert got == list(range(100))
    assert answers > 1


async def test_an_answer_without_room_for_all_has_a_cursor_of_each_channel(server: Server, publish: Publish) -> None:
    long = [f"jobs:{uuid.uuid4().hex}" for _ in range(3)]
    new, quiet = f"jobs:{uuid.uuid4().hex}", f"jobs:{uuid.uuid4().hex}"
    for i in range(100):
        for channel in long:
            await publish(channel, "progress", [i, "x" * 1_000])
    old = await publish(quiet, "progress")
    newest = await publish(new, "completed", final=True)
    query = "&".join([*(f"channel={channel},0" for channel in long), f"channel={new}", f"channel={quiet},now"])
    got = []
    async with httpx.AsyncClient() as client:
        answer = (await client.get(f"{server.http}/poll?{query}&wait=1")).json()
        assert newest not in [event["id"] for event in answer["events"]]
        later = await publish(quiet, "progress")
        for _ in range(4):
            got += [event["id"] for event in answer["events"]]
            query = "&".join(f"channel={channel},{cursor}" for channel, cursor in answer["channels"].items())
            answer = (await client.get(f"{server.http}/poll?{query}&wait=0")).json()

    assert got[-2:] == [newest, later]
    assert len(set(got)) == 302
    assert old not in got


def test_a_poll_that_does_not_wait_has_what_was_published_before_it(server: Server, shared_redis_url: str) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    with SyncRedis.from_url(shared_redis_url, decode_responses=True) as redis, Wire(server.port) as wire:

        def published() -> str:
            return str(redis.execute_command("FCALL", "notify_publish", 1, channel, "1"))

        def polled(cursor: str) -> list[str]:
            answer = wire.send(request(f"/poll?channel={channel},{cursor}&wait=0")).answer()
            return [event["id"] for event in json.loads(answer.body)["events"]]

        cursor, missed = published(), 0
        for _ in range(200):
            assert polled(cursor) == []  # reads what the next poll could share
            id = published()
            missed += polled(cursor) != [id]
            cursor = id

    assert missed == 0


async def test_a_poll_whose_client_leaves_leaves_nothing_behind(server: Server) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(5):
            with contextlib.suppress(httpx.TimeoutException):
                await client.get(f"{server.http}/poll?channel=jobs:nobody&wait=20", timeout=0.2)
        answer = await client.get(f"{server.http}/livez")

    assert answer.status_code == 200
    assert "Traceback" not in server.output()


async def test_a_poll_that_a_shutdown_ends_before_the_log_was_read_says_so() -> None:
    gateway = create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none"))
    transport = httpx.ASGITransport(gateway)
    async with gateway.run(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, asyncio.timeout(30):
        poll = asyncio.ensure_future(client.get("/poll?channel=jobs:1&wait=20"))
        while not gateway.services.connections.count:
            await asyncio.sleep(0)
        for end in gateway.services.connections.endings():
            end(RESTART, "")

        assert (await poll).json()["detail"] == "the log could not be read in time: the gateway shuts down"


async def test_a_poll_that_is_cancelled_leaves_no_task_behind(redis_url: str) -> None:
    gateway = create_app(Settings(redis_url=redis_url, auth="none"))
    transport = httpx.ASGITransport(gateway)
    async with gateway.run(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, asyncio.timeout(30):
        poll = asyncio.ensure_future(client.get("/poll?channel=jobs:1&wait=20"))
        while not gateway.services.connections.count:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)  # until it waits for an event
        poll.cancel()
        await asyncio.wait([poll])
        await asyncio.sleep(0)

        assert [task for task in asyncio.all_tasks() if "Event.wait" in repr(task.get_coro())] == []
