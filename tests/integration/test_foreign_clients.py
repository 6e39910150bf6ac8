"""Other people's SSE clients: cut again and again, each resumes with the id of its last event and loses nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from httpx_sse import SSEError, connect_sse
from redis.asyncio import Redis

from tests.conftest import need, publisher
from tests.faults.proxy import Proxy
from tests.support.servers import Server, running_gateway

CUT_AFTER = 3_000  # bytes, some 25 events
EVENTS = 300


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    with running_gateway(shared_redis_url) as server:
        yield server


class Log:
    """What one client received, and the id after which it resumes."""

    def __init__(self) -> None:
        self.events: list[dict[str, str]] = []
        self.last_id = ""
        self.connections = 0

    def take(self, name: str, id: str | None, data: str) -> None:
        message = json.loads(data)
        if name == "message":
            assert id == message["id"]
            self.last_id = message["id"]
            self.events.append(message)
        else:
            assert message["op"] == name  # a notice; 'bye' when the gateway ends the stream

    def headers(self) -> dict[str, str]:
        self.connections += 1
        return {"Last-Event-ID": self.last_id} if self.last_id else {}


def with_httpx_sse(client: httpx.Client, url: str, log: Log) -> bool:
    """One connection with httpx-sse. Whether there is more to come."""
    with connect_sse(client, "GET", url, headers=log.headers()) as source:
        if source.response.status_code == 204:
            return False
        for event in source.iter_sse():
            if event.data:
                log.take(event.event, event.id, event.data)
    return True


def with_sseclient(client: httpx.Client, url: str, log: Log) -> bool:
    """One connection with sseclient-py. Whether there is more to come."""
    import sseclient

    with client.stream("GET", url, headers=log.headers()) as answer:
        if answer.status_code == 204:
            return False
        for event in sseclient.SSEClient(answer.iter_bytes()).events():
            log.take(event.event, event.id, event.data)
    return True


CLIENTS = {"httpx-sse": with_httpx_sse, "sseclient-py": with_sseclient}


def follow(connect: Callable[[httpx.Client, str, Log], bool], url: str, log: Log) -> None:
    """Connect until the gateway says that it is over."""
    with httpx.Client(timeout=10) as client:
        more = True
        while more:
            try:
                more = connect(client, url, log)
            except (httpx.TransportError, SSEError):
                assert log.connections < 1_000


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_that_is_cut_and_resumes_loses_nothing(gateway: Server, shared_redis: Redis, name: str) -> None:
    if name == "sseclient-py":
        need(importlib.util.find_spec("sseclient"), "sseclient-py: uv pip install sseclient-py")
    publish, log = publisher(shared_redis), Log()
    channels = [f"foreign:{name}:{letter}" for letter in "ab"]
    ledger = [await publish(channels[i % 2], "progress", f"line\r\n{i}\u2028", keep=1_000) for i in range(EVENTS // 2)]
    async with Proxy(gateway.port) as proxy:
        proxy.cut_after = CUT_AFTER
        query = "&".join(f"channel={channel}" for channel in channels)
        url = f"http://127.0.0.1:{proxy.port}/sse?{query}&since=0&until=final"
        following = asyncio.ensure_future(asyncio.to_thread(follow, CLIENTS[name], url, log))
        for i in range(EVENTS // 2, EVENTS):
            ledger.append(await publish(channels[i % 2], "progress", i, keep=1_000))
            await asyncio.sleep(0.001)
        ledger += [await publish(channel, "completed", final=True, keep=1_000) for channel in channels]
        async with asyncio.timeout(30):
            await following

    assert [event["id"] for event in log.events] == ledger
    assert log.connections > EVENTS / 50
