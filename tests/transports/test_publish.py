"""``POST /publish``: what is accepted, and what each refusal says."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from tests.support.clients import ids, sse, take
from tests.support.servers import Server, running_gateway


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.http, timeout=20) as client:
        yield client


@pytest.fixture
def channel() -> str:
    return f"jobs:{uuid.uuid4().hex}"


async def test_an_event_is_recorded_under_the_id_that_is_answered(client: httpx.AsyncClient, server: Server, channel: str) -> None:
    answer = await client.post("/publish", json={"channel": channel, "type": "completed", "data": {"url": "/f"}, "final": True})
    [event, _] = await take(sse(server.http, f"channel={channel}"), 1, ready=True)

    assert answer.status_code == 200
    assert answer.json() == {"ids": {channel: event["id"]}}
    assert event == {"type": "completed", "data": {"url": "/f"}, "final": True, "channel": channel, "id": event["id"]}


async def test_one_event_goes_to_many_channels(client: httpx.AsyncClient, server: Server, channel: str) -> None:
    names = [f"{channel}.{i}" for i in range(100)]
    answer = (await client.post("/publish", json={"channel": names, "data": 1})).json()["ids"]

    assert list(answer) == names
    assert sorted(answer.values()) == list(answer.values())
    assert ids(await take(sse(server.http, f"channel={names[99]}"), 1)) == [answer[names[99]]]


async def test_a_channel_that_is_named_twice_gets_it_once(client: httpx.AsyncClient, server: Server, channel: str) -> None:
    answer = (await client.post("/publish", json={"channel": [channel, channel], "data": 1})).json()["ids"]

    assert ids(await take(sse(server.http, f"channel={channel}&since=0"), ready=True)) == [answer[channel]]


async def test_a_key_publishes_once(client: httpx.AsyncClient, server: Server, channel: str) -> None:
    answers = [(await client.post("/publish", json={"channel": channel, "data": i, "key": "k"})).json() for i in range(3)]

    assert answers[0] == answers[1] == answers[2]
    assert [m.get("data") for m in await take(sse(server.http, f"channel={channel}&since=0"), 1, ready=True)] == [0, None]


async def test_a_batch_answers_each_in_its_place(client: httpx.AsyncClient, shared_redis: Redis, channel: str) -> None:
    batch = [
        {"channel": channel, "data": 1},
        {"channel": [f"{channel}.good", "a b"]},
        {"chanel": "x"},
        5,
        {"channel": channel, "type": "x\ny"},
        {"channel": channel},
    ]
    answers = (await client.post("/publish", json=batch)).json()

    assert ["ids" in answer for answer in answers] == [True, False, False, False, False, True]
    assert [answer.get("status") for answer in answers[1:5]] == [422] * 4
    assert "channel 'a b'" in answers[1]["detail"]
    assert "chanel" in answers[2]["detail"]
    assert not await shared_redis.exists(f"notify:log:{{{channel}.good}}")  # an event is published on all of its channels or on none


async def test_a_thousand_events_go_in_one_request_and_no_more(client: httpx.AsyncClient, channel: str) -> None:
    whole = await client.post("/publish", json=[{"channel": channel, "data": i} for i in range(1_000)])
    more = await client.post("/publish", json=[{"channel": channel}] * 1_001)

    published = [int(answer["ids"][channel]) for answer in whole.json()]
    assert published == sorted(set(published))
    assert more.status_code == 422
    assert "1001 events" in more.json()["detail"]


@pytest.mark.parametrize("live", [False, True])
async def test_a_large_event_for_very_many_channels_is_to_be_split(client: httpx.AsyncClient, channel: str, live: bool) -> None:
    event = {"data": "x" * 60_000, "live": live}
    answer = await client.post("/publish", json=event | {"channel": [f"{channel}.{i}" for i in range(600)]})
    smaller = await client.post("/publish", json=event | {"channel": [f"{channel}.{i}" for i in range(100)]})

    assert (answer.status_code, smaller.status_code) == (413, 200)
    assert "split the request" in answer.json()["detail"]


async def test_keep_ttl_and_collapse_reach_the_log(client: httpx.AsyncClient, shared_redis: Redis, channel: str) -> None:
    for i in range(5):
        await client.post("/publish", json={"channel": channel, "data": i, "keep": 3, "ttl": 60})
    for i in range(5):
        await client.post("/publish", json={"channel": channel, "data": i, "collapse": "p", "keep": 3, "ttl": 60})

    assert await shared_redis.llen(f"notify:log:{{{channel}}}") == 3
    assert 55 < await shared_redis.ttl(f"notify:log:{{{channel}}}") <= 60


async def test_a_live_only_event_has_no_id(client: httpx.AsyncClient, server: Server, channel: str) -> None:
    messages = sse(server.http, f"channel={channel}")
    assert (await anext(messages))["op"] == "ready"
    answer = await client.post("/publish", json={"channel": channel, "type": "cursor", "data": 7, "live": True})

    assert answer.json() == {"ids": {channel: None}}
    assert await anext(messages) == {"type": "cursor", "data": 7, "channel": channel}
    await messages.aclose()


async def test_a_whole_number_may_be_written_with_a_point(client: httpx.AsyncClient, shared_redis: Redis, channel: str) -> None:
    for i in range(5):
        answer = await client.post("/publish", json={"channel": channel, "data": i, "keep": 3.0, "ttl": 60.0})

    assert answer.status_code == 200
    assert await shared_redis.llen(f"notify:log:{{{channel}}}") == 3
    assert 55 < await shared_redis.ttl(f"notify:log:{{{channel}}}") <= 60


@pytest.mark.parametrize("option", [{"key": "k"}, {"keep": 1}, {"ttl": 60}, {"collapse": "p"}], ids=str)
async def test_an_option_of_the_log_is_refused_for_a_live_only_event(
    client: httpx.AsyncClient, channel: str, option: dict[str, object]
) -> None:
    answer = await client.post("/publish", json={"channel": channel, "live": True} | option)
    without = await client.post("/publish", json={"channel": channel, "live": True} | dict.fromkeys(option))

    assert (answer.status_code, without.status_code) == (422, 200)
    assert answer.json()["detail"] == "live: such an event is not recorded; key, keep, ttl and collapse are for one that is"


async def test_the_events_of_an_array_arrive_in_its_order_recorded_or_not(client: httpx.AsyncClient, server: Server, channel: str) -> None:
    messages = sse(server.http, f"channel={channel}")
    assert (await anext(messages))["op"] == "ready"
    await client.post("/publish", json=[{"channel": channel, "data": i, "live": i % 2 == 0} for i in range(6)])

    assert [(await anext(messages))["data"] for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    await messages.aclose()


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"channel":"a","data":NaN}', 400, "not JSON"),
        (b'{"channel":"a","data":"\xff"}', 400, "UTF-8"),
        (b'[{"channel":"a"},{"channel":"a","type":"\xff"}]', 400, "UTF-8"),
        (b'{"channel":"a","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}", 422, "deeply"),
        (b'{"data":1}', 422, "channel"),
        (b'{"channel":5}', 422, "channel"),
        (b'{"channel":[]}', 422, "at least one"),
        (b'{"channel":""}', 422, "channel ''"),
        (b'{"channel":"a*"}', 422, "channel 'a*'"),
        (b'{"channel":"a","type":"x\\ny"}', 422, r"type 'x\ny'"),
        (b'{"channel":"a","type":""}', 422, "type ''"),
        (b'{"channel":"a","type":5}', 422, "type"),
        (b'{"channel":"a","final":"yes"}', 422, "final"),
        (b'{"channel":"a","id":"5"}', 422, "id"),
        (b'{"channel":"a","keep":0}', 422, "keep 0"),
        (b'{"channel":"a","keep":10001}', 422, "keep 10001"),
        (b'{"channel":"a","keep":1.5}', 422, "keep 1.5: a whole number from 1 to 10000"),
        (b'{"channel":"a","ttl":1e300}', 422, "ttl 1e+300: a whole number from 1 to 2592000"),
        (b'{"channel":"a","ttl":2592001}', 422, "ttl 2592001"),
        (b'{"channel":"a","key":""}', 422, "key ''"),
        (b'{"channel":"a","data":"' + b"x" * 70_000 + b'"}', 413, "at most 65536"),
        (b'{"channel":"a","data":"\\ud800"}', 400, "JSON"),
    ],
)
async def test_a_refusal_names_the_value(client: httpx.AsyncClient, body: bytes, status: int, named: str) -> None:
    answer = await client.post("/publish", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status
    assert named in answer.json()["detail"]


async def test_a_refused_value_is_quoted_in_short(client: httpx.AsyncClient, channel: str) -> None:
    answers = [await client.post("/publish", json={"channel": channel, name: 1}) for name in ("typ", "n" * 100_000)]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert "unknown field `typ`" in answers[0].json()["detail"]
    assert channel in answers[0].json()["detail"]
    assert len(answers[1].content) < 1_000


async def test_a_body_that_is_no_json_by_its_type_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/publish", content=b"channel=a", headers={"content-type": "application/x-www-form-urlencoded"})

    assert answer.status_code == 415
    assert "application/x-www-form-urlencoded" in answer.json()["detail"]


async def test_other_methods_are_answered_with_the_right_one(client: httpx.AsyncClient) -> None:
    answer = await client.get("/publish")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert json.loads(answer.content)["detail"] == "method 'GET': POST is expected"


async def test_bodies_beyond_the_memory_bound_get_a_503(redis_url: str) -> None:
    async def slow(done: asyncio.Event) -> AsyncIterator[bytes]:
        yield b'"' + b"x" * 99_990
        await done.wait()
        yield b'"'

    done = asyncio.Event()
    with running_gateway(redis_url, before="from gateway.transports import publish; publish.HELD_BYTES = 100_000") as server:
        async with httpx.AsyncClient(base_url=server.http, timeout=20) as client:
            first = asyncio.ensure_future(client.post("/publish", content=slow(done)))
            async with asyncio.timeout(30):
                # Until the first body has been read so far; a body that arrives in one piece is not held at all.
                while (second := await client.post("/publish", content=b'"xxxxxxxxxx"')).status_code == 422:
                    await asyncio.sleep(0.02)
            done.set()
            after = [(await first).status_code, (await client.post("/publish", content=b'"xxxxxxxxxx"')).status_code]

    assert (second.status_code, after) == (503, [422, 422])
    assert int(second.headers["retry-after"]) >= 1
