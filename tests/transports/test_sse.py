"""The bytes of an event stream."""

from __future__ import annotations

import re
import uuid

import httpx
import pytest
from redis.asyncio import Redis

from tests.conftest import Publish
from tests.support.servers import Server, running_gateway


def stream(address: str, query: str, until: bytes, headers: dict[str, str] | None = None) -> bytes:
    received = b""
    with httpx.stream("GET", f"{address}/sse?{query}", headers=headers, timeout=10) as answer:
        for data in answer.iter_raw():
            received += data
            if until in received:
                return received
    return received


async def test_an_event_is_an_id_and_one_line_of_data(server: Server, shared_redis: Redis) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    text = '{"type":"t",\r\n "data":{"a":\n"x\\ny"}}'
    id = (await shared_redis.execute_command("FCALL", "notify_publish", 1, channel, text)).decode()
    received = stream(server.http, f"channel={channel}", b"event: ready")

    event = f'id: {id}\ndata: {{"type":"t","data":{{"a": "x\\ny"}},"channel":"{channel}","id":"{id}"}}\n\n'
    assert event.encode() in received


async def test_it_begins_with_a_retry_that_differs(server: Server) -> None:
    waits = {re.match(rb"retry: (\d+)\n", stream(server.http, "channel=jobs:none", b"ready"))[1] for _ in range(5)}  # type: ignore[index]

    assert len(waits) > 1
    assert all(1_000 <= int(wait) <= 3_000 for wait in waits)


SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/604.1"
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"


@pytest.mark.parametrize(
    ("browser", "discard"), [(SAFARI, "id: {id}\nevent: discard\ndata: {{}}\n\n"), (CHROME, "")], ids=["safari", "chrome"]
)
async def test_for_webkit_it_begins_with_an_event_to_take_up_what_that_has_kept_of_the_last_one(
    server: Server, publish: Publish, browser: str, discard: str
) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    id = await publish(channel)
    received = stream(server.http, f"channel={channel}", b"event: ready", {"user-agent": browser, "last-event-id": id})

    begin = f"{discard.format(id=id)}id: {id}\nevent: ready".encode()
    assert received.partition(b"\n")[2].startswith(begin)


async def test_a_first_stream_of_webkit_begins_without_an_id(server: Server) -> None:
    received = stream(server.http, "channel=jobs:none", b"event: ready", {"user-agent": SAFARI})

    assert received.partition(b"\n")[2].startswith(b"id: \nevent: discard\n")


async def test_a_comment_keeps_it_open(shared_redis_url: str) -> None:
    with running_gateway(shared_redis_url, heartbeat_seconds="1") as server:
        received = stream(server.http, "channel=jobs:none", b"\n:\n:\n")

    assert received.endswith(b":\n:\n")


async def test_it_ends_with_the_last_final_event(server: Server, publish: Publish) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    await publish(channel, "completed", final=True)
    received = stream(server.http, f"channel={channel}&until=final", b"never")

    assert received.endswith(b'event: bye\ndata: {"op":"bye","code":1000,"reason":"the channels are over"}\n\n')
