"""Following channels over every transport, with direct writes and without."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx
import pytest
import websockets
from redis.asyncio import Redis

from tests.conftest import Publish
from tests.support.clients import TRANSPORTS, ids, sse, take, websocket
from tests.support.figures import until_live
from tests.support.servers import Server


@pytest.fixture
def channel() -> str:
    return f"jobs:{uuid.uuid4().hex}"


@pytest.fixture(params=TRANSPORTS)
def follow(request, server):
    def start(query):
        return TRANSPORTS[request.param](server.http, query)

    return start


async def test_a_job_that_ended_before_says_so_first_and_then_ready(follow, publish: Publish, channel: str) -> None:
    await publish(channel, "progress", 50)
    last = await publish(channel, "completed", {"url": "/files/42"}, final=True)

    messages = await take(follow(f"channel={channel}"), 1, ready=True)

    assert messages == [
        {"type": "completed", "data": {"url": "/files/42"}, "final": True, "channel": channel, "id": last},
        {"op": "ready", "channels": {channel: last}},
    ]


async def test_since_0_gives_all_of_the_log(follow, publish: Publish, channel: str) -> None:
    published = [await publish(channel, "progress", i) for i in range(20)]

    messages = await take(follow(f"channel={channel}&since=0"), 20, ready=True)

    assert ids(messages) == published
    assert messages[-1] == {"op": "ready", "channels": {channel: published[-1]}}


async def test_a_cursor_gives_what_came_after_it(follow, publish: Publish, channel: str) -> None:
    published = [await publish(channel, "progress", i) for i in range(5)]

    messages = await take(follow(f"channel={channel},{published[1]}"), 3, ready=True)

    assert ids(messages) == published[2:]


async def test_since_now_gives_nothing_old(follow, publish: Publish, channel: str) -> None:
    await publish(channel, "progress", 1)
    messages = follow(f"channel={channel}&since=now&wait=0.2")

    first = await anext(messages)
    new = await publish(channel, "progress", 2)

    assert first["op"] == "ready"
    assert ids([await anext(messages)]) == [new]
    await messages.aclose()


async def test_an_empty_channel_is_ready_at_once_and_its_first_event_arrives(
    follow, server: Server, publish: Publish, channel: str
) -> None:
    following = asyncio.ensure_future(take(follow(f"channel={channel}"), 1))
    await until_live(server.http, 1)
    first = await publish(channel, "queued")

    told = [message.get("op", message.get("id")) for message in await following]
    assert told in (["ready", first], [first])  # a poll is answered with the first event


async def test_a_cursor_that_was_trimmed_away_gets_a_gap_and_then_the_rest(follow, publish: Publish, channel: str) -> None:
    for i in range(150):
        await publish(channel, "progress", i)
    last = await publish(channel, "completed", final=True)

    messages = await take(follow(f"channel={channel}&since=0"), 100, ready=True)

    assert messages[0] == {"op": "gap", "channel": channel}
    assert len(ids(messages)) == 100
    assert ids(messages)[-1] == last
    assert sum(m.get("op") == "gap" for m in messages) == 1


async def test_collapsed_progress_leaves_one_and_pushes_nothing_out(follow, publish: Publish, channel: str) -> None:
    queued = await publish(channel, "queued")
    for i in range(150):
        newest = await publish(channel, "progress", i, collapse="progress")
    completed = await publish(channel, "completed", final=True)

    messages = await take(follow(f"channel={channel}&since=0"), 3, ready=True)
    snapshot = await take(follow(f"channel={channel}"), 1, ready=True)

    assert ids(messages) == [queued, newest, completed]
    assert not any(m.get("op") == "gap" for m in messages)
    assert ids(snapshot) == [completed]


async def test_the_stream_ends_with_the_last_final_event(follow, publish: Publish, channel: str) -> None:
    other = f"{channel}.b"
    await publish(channel, "completed", final=True)
    end = await publish(other, "failed", final=True)

    messages = [m async for m in follow(f"channel={channel}&channel={other}&since=0&until=final")]

    assert ids(messages)[-1] == end
    assert len(ids(messages)) == 2


async def test_the_stream_ends_when_the_final_event_comes(server: Server, publish: Publish, channel: str) -> None:
    async def until_over(transport) -> list[str]:
        return ids([m async for m in transport(server.http, f"channel={channel}&until=final")])

    followers = [asyncio.ensure_future(until_over(t)) for t in TRANSPORTS.values()]
    await until_live(server.http, 3)
    end = await publish(channel, "completed", final=True)

    assert await asyncio.gather(*followers) == [[end]] * 3


async def test_a_live_only_event_reaches_who_is_connected_and_has_no_id(
    server: Server, shared_redis: Redis, publish: Publish, channel: str
) -> None:
    for transport in (websocket, sse):
        messages = transport(server.http, f"channel={channel}")
        await take_ready(messages)
        await shared_redis.publish(f"notify:{channel}", json.dumps({"type": "cursor", "data": [1, 2]}))

        assert await anext(messages) == {"type": "cursor", "data": [1, 2], "channel": channel}
        await messages.aclose()


async def take_ready(messages):
    async for message in messages:
        if message.get("op") == "ready":
            return


async def test_any_other_json_becomes_the_data_of_a_message(follow, shared_redis: Redis, channel: str) -> None:
    for text in ('{"percent": 40}', '{"type":"x","channel":"jobs:other","id":"1"}', "[1,  2]", '"text"', "null"):
        await shared_redis.execute_command("FCALL", "notify_publish", 1, channel, text)

    messages = await take(follow(f"channel={channel}&since=0"), 5)

    assert [m["data"] for m in messages] == [{"percent": 40}, {"type": "x", "channel": "jobs:other", "id": "1"}, [1, 2], "text", None]
    assert {(m["type"], m["channel"]) for m in messages} == {("message", channel)}


async def test_poison_in_the_log_and_on_pub_sub_is_stepped_over(follow, shared_redis: Redis, publish: Publish, channel: str) -> None:
    first = await publish(channel, "progress", 1)
    for poison in (b"not an entry", b"\xff\xfe", b"5", b"1795215462557031 0 \n{nope", b"9" * 100_000):
        await shared_redis.rpush(f"notify:log:{{{channel}}}", poison)
    second = await publish(channel, "progress", 2)
    messages = follow(f"channel={channel}&since=0")
    caught_up = [await anext(messages), await anext(messages)]
    if "poll" not in messages.__name__:
        await take_ready(messages)
    for poison in (b"not json", b"\xff\xfe", b"12 11\n{", b'"' + b"x" * 100_000 + b'"', b'{"type":"a\\nb"}'):
        await shared_redis.publish(f"notify:{channel}", poison)
    third = await publish(channel, "progress", 3)
    while "op" in (message := await anext(messages)):
        pass

    assert ids(caught_up) == [first, second]
    assert ids([message]) == [third]
    await messages.aclose()


async def test_commands_follow_and_leave_channels(server: Server, publish: Publish, channel: str) -> None:
    old = await publish(channel, "progress", 1)
    async with websockets.connect(f"{server.ws}/ws") as socket:
        await socket.send(json.dumps({"op": "subscribe", "channels": {channel: None}, "ref": 1}))
        snapshot = [json.loads(await socket.recv()) for _ in range(2)]
        await socket.send(json.dumps({"op": "unsubscribe", "channels": [channel], "ref": 2}))
        left = json.loads(await socket.recv())
        await publish(channel, "progress", 2)
        await socket.send(json.dumps({"op": "subscribe", "channels": {channel: "0"}, "ref": "three"}))
        again = [json.loads(await socket.recv()) for _ in range(3)]
        await socket.send('{"op":"ping"}')
        pong = json.loads(await socket.recv())

    assert ids(snapshot) == [old]
    assert snapshot[1] == {"op": "ready", "ref": 1, "channels": {channel: old}}
    assert left == {"op": "ready", "ref": 2, "channels": {}}
    assert [m.get("data") for m in again] == [1, 2, None]
    assert again[2]["ref"] == "three"
    assert pong == {"op": "pong"}


async def test_who_leaves_one_channel_goes_on_with_the_others(server: Server, publish: Publish, channel: str) -> None:
    async with websockets.connect(f"{server.ws}/ws?channel={channel}&channel={channel}.b&since=now") as socket:
        await socket.recv()
        await socket.send(json.dumps({"op": "unsubscribe", "channels": [f"{channel}.b"], "ref": 1}))
        left = json.loads(await socket.recv())
        await publish(f"{channel}.b")
        id = await publish(channel)
        event = json.loads(await socket.recv())

    assert list(left["channels"]) == [channel]
    assert (event["channel"], event["id"]) == (channel, id)


async def test_more_channels_than_may_be_followed_can_be_left_at_once(server: Server, channel: str) -> None:
    surplus = [f"{channel}.{i}" for i in range(1_023)]
    async with websockets.connect(f"{server.ws}/ws?channel={channel}&since=now") as socket:
        await socket.recv()
        await socket.send(json.dumps({"op": "unsubscribe", "channels": [*surplus, channel], "ref": 1}))
        left = json.loads(await socket.recv())
        await socket.send(json.dumps({"op": "unsubscribe", "channels": [*surplus, channel, "one"], "ref": 2}))
        refused = json.loads(await socket.recv())

    assert left == {"op": "ready", "ref": 1, "channels": {}}
    assert (refused["ref"], refused["status"]) == (2, 400)


async def test_100_first_subscribers_at_once_all_get_the_first_event(server: Server, publish: Publish, channel: str) -> None:
    async def follow_first(transport) -> list[str]:
        messages = transport(server.http, f"channel={channel}")
        await take_ready(messages)
        followers.release()
        event = await anext(messages)
        await messages.aclose()
        return ids([event])

    followers = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow_first((websocket, sse)[i % 2])) for i in range(100)]
        for _ in tasks:
            await followers.acquire()
        first = await publish(channel, "queued")

    assert [task.result() for task in tasks] == [[first]] * 100


async def test_an_event_source_that_reconnects_after_the_final_event_gets_204(server: Server, publish: Publish, channel: str) -> None:
    end = await publish(channel, "completed", final=True)
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{server.http}/sse?channel={channel}&until=final", headers={"Last-Event-ID": end})

    assert answer.status_code == 204


async def test_the_last_event_id_outranks_the_url(server: Server, publish: Publish, channel: str) -> None:
    published = [await publish(channel, "progress", i) for i in range(4)]
    query = f"channel={channel},{published[0]}&since=0"
    for name in ("lastEventId", "last_event_id"):
        assert ids(await take(sse(server.http, f"{query}&{name}={published[2]}"), 1)) == published[3:]
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", f"{server.http}/sse?{query}", headers={"Last-Event-ID": published[2]}) as answer,
    ):
        lines = []
        async for line in answer.aiter_lines():
            lines.append(line)
            if line == "event: ready":
                break

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert lines[0].startswith("retry: ")
    assert [line for line in lines if line.startswith("id: ")] == [f"id: {published[3]}"] * 2  # of the event, and of ready
    assert not any(line.startswith("event: message") for line in lines)


async def test_a_poll_waits_no_longer_than_asked(server: Server, channel: str) -> None:
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient() as client:
        started = loop.time()
        answer = await client.get(f"{server.http}/poll?channel={channel}&wait=0.5")
        waited = loop.time() - started
        preferred = await client.get(f"{server.http}/poll?channel={channel}", headers={"Prefer": "wait=0"})

    assert answer.json()["events"] == preferred.json()["events"] == []
    assert 0.4 < waited < 15  # of the 25 that it would wait


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", "no channel"),
        ("channel=", "channel ''"),
        ("channel=a%20b", "channel 'a b'"),
        ("channel=*", "channel '*'"),
        ("channel=%5Ba-z%5D", "channel '[a-z]'"),
        ("channel=a%0D%0Ab", r"channel 'a\r\nb'"),
        ("channel=a%00", r"channel 'a\x00'"),
        ("channel=a%E2%80%A8", r"channel 'a\u2028'"),
        ("channel=%FF", "UTF-8"),
        (f"channel={'a' * 129}", "at most 128"),
        ("&".join(f"channel=c{i}" for i in range(129)), "129 channels"),
        ("channel=a,b", "cursor 'b'"),
        ("channel=a,-1", "cursor '-1'"),
        (f"channel=a,{'9' * 1000}", "cursor '999"),
        ("channel=a&since=yesterday", "cursor 'yesterday'"),
        ("channel=a&lastEventId=x", "last event id"),
        ("channel=a&until=never", "until 'never'"),
    ],
)
async def test_bad_channels_and_cursors_are_named(server: Server, query: str, named: str) -> None:
    async with httpx.AsyncClient() as client:
        answers = [await client.get(f"{server.http}/{path}?{query}") for path in ("sse", "poll")]
    for answer in answers:
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert named in answer.json()["detail"]
    if query:
        async with websockets.connect(f"{server.ws}/ws?{query}") as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400
        assert named in closed.value.rcvd.reason
