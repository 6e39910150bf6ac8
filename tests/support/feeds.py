"""A running feed in this process, clients that follow it, and how often Redis was asked to read a log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis

from gateway.core.page import Since
from gateway.core.subscription import Subscription
from gateway.core.wire import TEXT
from gateway.feed import Feed
from gateway.store.client import redis_client
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Feed]:
    """Run a feed while the context is open; entered once it can deliver."""
    client = redis_client(url)
    feed = Feed(client)
    task = asyncio.ensure_future(feed.run())
    try:
        await until(lambda: feed.ready)
        yield feed
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()


class Client:
    """Follows channels and keeps, decoded, what its subscription writes."""

    def __init__(self, feed: Feed, channel: str | dict[str, Since], since: Since = 0, greeting: bytes = b"") -> None:
        self.got: list[Any] = []
        self.subscription = Subscription(
            wire=TEXT,
            write=lambda data: self.got.append(json.loads(data)),
            on_behind=feed.catch_up,
            on_done=lambda: None,
            on_failed=lambda: None,
            greeting=greeting,
        )
        feed.follow(self.subscription, {channel: since} if isinstance(channel, str) else channel)

    async def until_ready(self) -> None:
        await until(lambda: any("op" in message and message["op"] == "ready" for message in self.got))

    @property
    def ids(self) -> list[str]:
        return [message["id"] for message in self.got if "id" in message]


async def reads(client: Redis) -> int:
    """How many calls to read logs this Redis has answered so far."""
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_fcall_ro", {}).get("calls", 0))


@contextlib.asynccontextmanager
async def hanging(redis: Redis) -> AsyncIterator[None]:
    """The server says nothing, and keeps its connections."""
    server = int((await redis.info("server"))["process_id"])
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)
