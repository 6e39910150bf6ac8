"""Each metric changes when what it counts happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
import websockets
from redis.asyncio import Redis

from gateway.embedded import embedded_server
from tests.conftest import Publish
from tests.support import wire
from tests.support.clients import TRANSPORTS, poll, sse, take, websocket
from tests.support.figures import Figures, figures, figures_when
from tests.support.servers import Server, running_gateway


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    """A gateway with our own server protocols; the metrics do not depend on them."""
    with running_gateway(shared_redis_url) as server:
        yield server


NAMES = {"ws": "websocket", "sse": "sse", "poll": "poll"}


def moved(before: Figures, after: Figures, name: str) -> float:
    return after[name] - before[name]


async def test_connections_subscriptions_and_channels_come_and_go(server: Server) -> None:
    before = await figures(server.http)
    streams = [opens(server.http, "channel=figures:a&channel=figures:b") for opens in (websocket, sse)]
    for stream in streams:
        assert (await anext(stream))["op"] == "ready"
    waiting = asyncio.ensure_future(take(poll(server.http, "channel=figures:a&since=now&wait=20"), 1))
    during = await figures_when(server.http, lambda now: moved(before, now, "gateway_subscriptions") == 5)
    waiting.cancel()
    for stream in streams:
        await stream.aclose()
    after = await figures_when(server.http, lambda now: now["gateway_subscriptions"] == before["gateway_subscriptions"])

    for name in NAMES.values():
        assert moved(before, during, f"gateway_connections{{{name}}}") == 1
        assert after[f"gateway_connections{{{name}}}"] == before[f"gateway_connections{{{name}}}"]
        assert moved(before, during, f"gateway_handshake_seconds_count{{{name}}}") == 1
    assert moved(before, during, "gateway_channels") == 2
    assert after["gateway_subscriptions"] == before["gateway_subscriptions"]


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_an_event_is_counted_in_and_out_with_its_bytes_and_how_long_it_took(server: Server, publish: Publish, kind: str) -> None:
    before, name, channel = await figures(server.http), NAMES[kind], f"figures:{kind}:{server.port}"
    following = asyncio.ensure_future(take(TRANSPORTS[kind](server.http, f"channel={channel}&since=0&until=final"), 1))
    await figures_when(
        server.http, lambda now: moved(before, now, "gateway_behind_seconds_count") == 1 == moved(before, now, "gateway_subscriptions")
    )
    await publish(channel, "completed", {"x": "y" * 1000}, final=True)
    await following
    after = await figures_when(server.http, lambda now: moved(before, now, f"gateway_events_out_total{{{name}}}") == 1)

    assert moved(before, after, f"gateway_events_out_total{{{name}}}") == 1
    assert moved(before, after, "gateway_events_out_total") == 1
    assert 1000 < moved(before, after, f"gateway_bytes_out_total{{{name}}}") < 1300
    assert moved(before, after, "gateway_events_in_total{recorded}") == 1
    assert moved(before, after, f"gateway_delivery_seconds_count{{{name}}}") == 1
    assert 0 <= moved(before, after, f"gateway_delivery_seconds_sum{{{name}}}") < 5
    assert moved(before, after, "gateway_behind_seconds_count") >= 1
    if kind != "poll":
        assert moved(before, after, "gateway_goodbyes_total{1000}") == 1


VIOLATIONS = {
    "1002": wire.frame(b"x", masked=False),
    "1003": wire.frame(b"x", wire.BINARY),
    "1007": wire.frame(b"\xff"),
    "1008": wire.frame(b'{"op":"ping"}') * 400,
    "1009": wire.frame(b" " * 65_537),
}


@pytest.mark.parametrize(("code", "data"), VIOLATIONS.items(), ids=VIOLATIONS)
async def test_a_client_that_breaks_the_rules_is_counted_by_its_close_code_and_logged(gateway: Server, code: str, data: bytes) -> None:
    def client() -> int:
        with wire.websocket(gateway.port) as socket:
            return socket.send(data).close_code()

    before = await figures(gateway.http)
    assert await asyncio.to_thread(client) == int(code)
    after = await figures(gateway.http)

    assert moved(before, after, f"gateway_goodbyes_total{{{code}}}") == moved(before, after, "gateway_goodbyes_total") == 1
    assert gateway.output().count(f"ended with {code}: ") == 1


async def test_a_command_that_is_refused_is_counted(gateway: Server) -> None:
    def client() -> list[object]:
        with wire.websocket(gateway.port) as socket:
            commands = ({"op": "dance"}, {"op": "subscribe", "channels": {"*": None}}, {"op": "ping"})
            return [socket.send(wire.frame(json.dumps(command).encode())).message()["op"] for command in commands]

    before = await figures(gateway.http)
    assert await asyncio.to_thread(client) == ["error", "error", "pong"]
    after = await figures(gateway.http)

    assert moved(before, after, "gateway_refusals_total{bad_request}") == moved(before, after, "gateway_refusals_total") == 2


async def test_malformed_live_only_and_repeated_events_are_counted_apart(gateway: Server, shared_redis: Redis, publish: Publish) -> None:
    channel = f"figures:odd:{gateway.port}"
    stream = websocket(gateway.http, f"channel={channel}&since=0")
    assert (await anext(stream))["op"] == "ready"
    id = await publish(channel)
    await anext(stream)
    before = await figures(gateway.http)
    await shared_redis.publish(f"notify:{channel}", b"{")
    await shared_redis.publish(f"notify:{channel}", f'{id} 0\n{{"type":"again"}}')
    await shared_redis.publish(f"notify:{channel}", b'{"type":"live"}')
    assert (await anext(stream))["type"] == "live"
    await stream.aclose()
    after = await figures(gateway.http)

    assert moved(before, after, "gateway_events_in_total{malformed}") == 1
    assert moved(before, after, "gateway_events_in_total{recorded}") == 1
    assert moved(before, after, "gateway_duplicates_total{websocket}") == 1
    assert moved(before, after, "gateway_events_in_total{live_only}") == 1
    assert moved(before, after, "gateway_events_out_total{websocket}") == 1


async def test_reads_gaps_and_what_cannot_be_read_in_the_log(gateway: Server, shared_redis: Redis, publish: Publish) -> None:
    channel = f"figures:log:{gateway.port}"
    for _ in range(3):
        await publish(channel, keep=1)
    await shared_redis.rpush(f"notify:log:{{{channel}}}", b"what is this")
    before = await figures(gateway.http)
    clients = [asyncio.ensure_future(take(websocket(gateway.http, f"channel={channel}&since=0"), 1, ready=True)) for _ in range(8)]
    await asyncio.gather(*clients)
    after = await figures(gateway.http)

    assert moved(before, after, "gateway_gaps_total{websocket}") == 8
    assert moved(before, after, "gateway_log_reads_total") >= 1
    assert moved(before, after, "gateway_log_reads_total") + moved(before, after, "gateway_log_reads_shared_total") >= 8
    assert moved(before, after, "gateway_events_in_total{unreadable_entry}") >= 1


async def test_refusals_are_counted_by_reason(gateway: Server) -> None:
    before = await figures(gateway.http)
    async with httpx.AsyncClient(verify=False, base_url=gateway.http) as client:
        for path in ("/nothing", "/sse?channel=*", "/ws"):
            await client.get(path)
    with pytest.raises(websockets.ConnectionClosedError):
        await take(websocket(gateway.http, "channel=*"), 1)
    after = await figures(gateway.http)

    assert moved(before, after, "gateway_refusals_total{not_found}") == 1
    assert moved(before, after, "gateway_refusals_total{bad_request}") == 2
    assert moved(before, after, "gateway_refusals_total{upgrade_required}") == 1


async def test_publishing_over_http_is_counted_by_outcome(gateway: Server) -> None:
    before = await figures(gateway.http)
    items = [{"channel": ["figures:p", "figures:q"]}, {"channel": "figures:p", "live": True}, {"channel": "*"}]
    async with httpx.AsyncClient(verify=False, base_url=gateway.http) as client:
        await client.post("/publish", json=items)
    after = await figures(gateway.http)

    assert [moved(before, after, f"gateway_published_total{{{kind}}}") for kind in ("recorded", "live_only", "refused")] == [1, 1, 1]


async def test_events_that_are_refused_alone_or_all_together_are_counted_too() -> None:
    with embedded_server() as url, running_gateway(url) as gateway:
        async with httpx.AsyncClient(verify=False, base_url=gateway.http) as client:
            before = await figures(gateway.http)
            malformed = await client.post("/publish", json={"channel": "figures:r", "colour": "red"})
            forbidden = await client.post("/publish", json={"channel": "*"})
            async with Redis.from_url(url) as redis:
                await redis.execute_command("CLIENT", "PAUSE", 20_000)
            away = await client.post("/publish", json=[{"channel": "figures:r"}] * 3, timeout=30)
            after = await figures(gateway.http)

    assert [answer.status_code for answer in (malformed, forbidden, away)] == [422, 422, 503]
    assert moved(before, after, "gateway_published_total{refused}") == moved(before, after, "gateway_published_total") == 5


async def test_a_client_that_waits_for_redis_is_behind(gateway: Server, shared_redis: Redis) -> None:
    before = await figures_when(gateway.http, lambda now: now["gateway_behind"] == 0)
    await shared_redis.execute_command("CLIENT", "PAUSE", 1000)
    waiting = asyncio.ensure_future(take(websocket(gateway.http, "channel=figures:behind"), ready=True))
    during = await figures_when(gateway.http, lambda now: now["gateway_behind_oldest_seconds"] > 0.1)
    await waiting
    after = await figures_when(gateway.http, lambda now: now["gateway_behind"] == 0)

    assert before["gateway_behind"] == after["gateway_behind"] == 0
    assert during["gateway_behind"] == 1
    assert 0.1 < during["gateway_behind_oldest_seconds"] < 30


async def test_the_loop_and_redis_are_looked_at_once_a_second(gateway: Server) -> None:
    before = await figures(gateway.http)
    after = await figures_when(
        gateway.http, lambda now: all(moved(before, now, f"gateway_{name}_seconds_count") for name in ("loop_lag", "redis_round_trip"))
    )

    assert moved(before, after, "gateway_loop_lag_seconds_count") >= 1
    assert moved(before, after, "gateway_redis_round_trip_seconds_count") >= 1
    assert 0 < after["gateway_probe_age_seconds"] < 4.5
    assert after["gateway_draining"] == 0


async def test_a_lost_connection_to_redis_shows(gateway: Server, shared_redis: Redis) -> None:
    before = await figures(gateway.http)
    await shared_redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    after = await figures_when(gateway.http, lambda now: moved(before, now, "gateway_redis_connects_total") > 0)

    assert moved(before, after, "gateway_redis_connects_total") == 1
