"""Gateway processes connected to the model of Redis: the feed with its core, its shared reads, and the listener's subscriptions.

Only the sockets are left out: what is sent stays under way until a step of the test lets it arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.feed import Feed
from gateway.reads import Reads
from gateway.store.log import Log
from tests.core.redis_model import Connection, RedisModel


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose turns and clock the test controls."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()


@contextmanager
def inside(loop: VirtualLoop) -> Iterator[None]:
    """Run code as if in a callback of the loop, without a turn of it."""
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@dataclass(eq=False)
class Request:
    """A pipeline of reads under way: Redis runs them one by one, and the replies arrive together."""

    calls: list[Any]
    answered: asyncio.Future[list[Any]]
    replies: list[Any] = field(default_factory=list)


class ModelLog(Log):
    """The log, whose commands go to the model."""

    def __init__(self, requests: list[Request]) -> None:
        super().__init__(Redis())
        self._requests = requests

    async def _run(self, name: str, calls: Any) -> list[Any]:
        request = Request(list(calls), asyncio.get_running_loop().create_future())
        self._requests.append(request)
        return await request.answered

    async def open(self, heard: int = 0, source: bytes = b"") -> bytes:
        await self._run("sync_clock", [(None, heard, 0)])
        return b""


class Tasks:
    """Replaces the feed's task group."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def create_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        assert task.cancelled() or task.exception() is None


class Process:
    """The feed of one gateway process."""

    def __init__(self, redis: RedisModel) -> None:
        self.redis = redis
        self.requests: list[Request] = []
        self.feed = Feed(Redis())
        self.feed.log = ModelLog(self.requests)
        self.feed.reads = Reads(self.feed.log, self.feed.hub)
        self.tasks = Tasks()
        self.feed._tasks = self.tasks  # type: ignore[assignment]
        self.connection: Connection | None = None

    def connect(self) -> None:
        if self.connection is not None:
            self.redis.connections.remove(self.connection)
        self.redis.greet(self.feed.hub.heard)
        self.connection = Connection()
        self.redis.connections.append(self.connection)

    def lose(self) -> None:
        """The process notices the end of its connection; what it had not read is lost."""
        if self.connection is not None:
            self.redis.connections.remove(self.connection)
            self.connection = None
            self.feed.listener._unconfirm()
            self.feed.listener._on_lost()

    def send(self) -> None:
        """Let the listener's commands reach Redis."""
        if self.connection is None or not self.connection.alive:
            return
        changes, self.feed.listener._to_send = self.feed.listener._to_send, {}
        for name, wanted in changes.items():
            if wanted:
                self.connection.subscribed.add(name)
                self.connection.stream.append([b"subscribe", b"notify:" + name.encode(), 1])
            else:
                self.connection.subscribed.discard(name)

    def deliver(self, count: int) -> None:
        for _ in range(count):
            if self.connection is not None and self.connection.stream:
                self.feed.listener._take(self.connection.stream.popleft())

    def run_reads(self, which: int, count: int) -> None:
        """Redis runs some commands of one pipeline."""
        waiting = [request for request in self.requests if len(request.replies) < len(request.calls)]
        if waiting:
            request = waiting[which % len(waiting)]
            for channel, since, _ in request.calls[len(request.replies) :][:count]:
                if channel is None:
                    self.redis.greet(since)
                request.replies.append(self.redis.read(channel, since) if channel else None)

    def answer(self, which: int) -> None:
        ready = [request for request in self.requests if len(request.replies) == len(request.calls)]
        if ready:
            request = ready[which % len(ready)]
            self.requests.remove(request)
            request.answered.set_result(request.replies)

    def fail(self) -> None:
        for request in self.requests:
            request.answered.set_exception(RedisConnectionError("gone"))
        self.requests.clear()
