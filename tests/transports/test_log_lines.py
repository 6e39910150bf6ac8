"""What a running gateway logs of requests and connections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets

from gateway.transports.log_lines import about
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    """One that logs all it has to say, as JSON."""
    with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET, log_level="debug", log_format="json") as server:
        yield server


def logged(server: Server, logger: str, message: str) -> list[dict[str, Any]]:
    """Its lines of this logger that begin like this; the last must have come, so it is waited for."""
    deadline = time.monotonic() + 30
    while True:
        lines: list[dict[str, Any]] = [json.loads(line) for line in server.output().splitlines()]
        found = [line for line in lines if line["logger"] == logger and line["message"].startswith(message)]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def test_an_unknown_value_is_left_out() -> None:
    assert about(subject="ann", address="") == {"about": {"subject": "ann"}}


async def test_a_connection_is_logged_with_its_number_subject_and_address(gateway: Server) -> None:
    token = make_token("ann", subscribe=["jobs:*"], exp=time.time() + 2)
    async with websockets.connect(f"{gateway.ws}/ws?channel=jobs:1&token={token}") as socket:
        await socket.wait_closed()
    (ended,) = logged(gateway, "gateway.connections", "ended with 4401: the token has expired")
    opened = [line for line in logged(gateway, "gateway.connections", "opened") if line["connection"] == ended["connection"]]

    assert (ended["level"], ended["transport"], ended["subject"], ended["address"]) == ("info", "websocket", "ann", "127.0.0.1")
    assert [line["level"] for line in opened] == ["debug"]
    assert token not in gateway.output()


async def test_a_refusal_is_logged_without_the_query_string(gateway: Server) -> None:
    token = make_token("bob", subscribe=["other:*"])
    async with httpx.AsyncClient() as client:
        await client.get(f"{gateway.http}/sse?channel=jobs:1&token={token}", headers={"traceparent": TRACE})
    (line,) = logged(gateway, "gateway.requests", "'/sse' refused with 403: ")

    assert (line["level"], line["address"], line["traceparent"]) == ("info", "127.0.0.1", TRACE)
    assert token not in gateway.output()


async def test_the_trace_of_a_publisher_is_logged_and_is_no_part_of_the_event(gateway: Server) -> None:
    token = make_token("cid", subscribe=["jobs:*"], publish=["jobs:*"])
    headers = {"traceparent": TRACE, "authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers) as client:
        sent = [{"channel": "jobs:traced"}, {"channel": "*"}, {"channel": "jobs:traced"}]
        await client.post(f"{gateway.http}/publish", json=sent)
        await client.post(f"{gateway.http}/publish", json=sent[:1])
        received = (await client.get(f"{gateway.http}/poll?channel=jobs:traced&since=0")).json()["events"]
    (some,) = logged(gateway, "gateway.publish", "2 events published, 1 refused")
    (all_of_it,) = logged(gateway, "gateway.publish", "1 events published, 0 refused")

    assert (some["traceparent"], some["subject"], some["level"]) == (TRACE, "cid", "info")
    assert (all_of_it["traceparent"], all_of_it["level"]) == (TRACE, "debug")
    assert all(set(event) == {"type", "data", "channel", "id"} for event in received)


async def test_an_event_that_is_refused_alone_has_one_line(gateway: Server) -> None:
    token = make_token("eve", publish=["jobs:*"])
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as client:
        before = len(gateway.output().splitlines())
        await client.post(f"{gateway.http}/publish", json={"channel": "eves:1"})
    lines = gateway.output().splitlines()[before:]

    assert len(lines) == 1
    assert "'/publish' refused with 403: channel 'eves:1'" in lines[0]


async def test_an_event_is_not_logged(gateway: Server) -> None:
    token = make_token("dan", subscribe=["jobs:*"], publish=["jobs:*"])
    async with websockets.connect(f"{gateway.ws}/ws?channel=jobs:quiet&token={token}") as socket:
        assert json.loads(await socket.recv())["op"] == "ready"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as client:
            before = len(gateway.output().splitlines())
            await client.post(f"{gateway.http}/publish", json=[{"channel": "jobs:quiet"}] * 200)
        for _ in range(200):
            await socket.recv()
        await asyncio.to_thread(logged, gateway, "gateway.publish", "200 events")

        assert len(gateway.output().splitlines()) - before <= 1


def test_it_says_where_it_listens_and_that_events_get_through(gateway: Server) -> None:
    assert logged(gateway, "gateway.server", f"gateway on 127.0.0.1 port {gateway.port}")
    assert logged(gateway, "gateway.figures", "events get through Redis")
