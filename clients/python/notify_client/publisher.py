"""Publisher and its asyncio twin: they carry the words of an exchange to Redis and the replies back."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import redis
import redis.asyncio

from notify_client.command import MAX_EVENT_BYTES, Words
from notify_client.connection import make_async_client, make_client
from notify_client.exchange import DISCONNECT, Desk, Exchange
from notify_client.outage import DropCallback

Result = TypeVar("Result")

TIMEOUT: Final = 0.5
CONNECTIONS: Final = 16  # of one publisher: a thousand threads, greenlets or tasks that publish at once take turns


class Publisher:
    """Publishes events from threads and forked workers, and never holds them up.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``
        client: instead of the URL, a redis-py client; its own timeouts and retries then hold
        prefix: as the gateway's GATEWAY_PREFIX
        timeout: seconds after which a call returns, whatever Redis does
        max_event_bytes: as the gateway's GATEWAY_MAX_EVENT_BYTES
        on_drop: called with channel, type and reason of each event that is dropped
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | None = None,
        prefix: str = "notify",
        timeout: float = TIMEOUT,
        max_event_bytes: int = MAX_EVENT_BYTES,
        on_drop: DropCallback | None = None,
    ) -> None:
        self._desk = Desk(prefix, max_event_bytes, timeout, on_drop)
        if (url is None) == (client is None):
            raise ValueError("url or client: one of them is expected")
        self._own = client is None
        self._client = client or make_client(url or "", timeout)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._turns = threading.Semaphore(CONNECTIONS)

    @property
    def dropped(self) -> int:
        """How many events this process has dropped."""
        return self._desk.ledger.dropped

    def publish(
        self,
        channel: str,
        type: str,
        data: Any = None,
        *,
        final: bool = False,
        key: str | None = None,
        keep: int | None = None,
        ttl: int | None = None,
        collapse: str | None = None,
    ) -> str | None:
        """Record an event and announce it.

        Args:
            channel: where to
            type: what happened
            data: any JSON value
            final: whether this is the last event of the channel: the job is over
            key: however often it is published with the same key within 24 h, there is one event
            keep: how many events of the channel to keep, 100 unless given
            ttl: how many seconds to keep them after this one, a day unless given
            collapse: a label: if the newest event has the same, this one takes its place

        Returns:
            The id; ``None`` if the event was dropped, because Redis was away or refused it. Where the answer was lost, it may
            have been recorded all the same: publish it again with the same key.

        Raises:
            ValueError: if an argument is wrong. The text names it and the rule.
        """
        return self._carry(
            self._desk.publish(channel, type, data, final=final, key=key, keep=keep, ttl=ttl, collapse=collapse),
        )

    def live(self, channel: str, type: str, data: Any = None) -> int | None:
        """Send an event to whoever is connected, without recording it.

        Returns:
            How many gateways heard it; ``None`` if it was dropped.

        Raises:
            ValueError: if an argument is wrong.
        """
        return self._carry(self._desk.live(channel, type, data))

    def _carry(self, exchange: Exchange[Result]) -> Result:
        if self._process != os.getpid():
            self._start()  # a forked child: other threads of the parent had turns
        turns = self._turns
        # By then a Redis that hangs has been noticed. One that is slow has many connections rather than a long queue.
        mine = turns.acquire(timeout=self._desk.timeout)
        try:
            return self._converse(exchange)
        finally:
            if mine:
                turns.release()

    def _converse(self, exchange: Exchange[Result]) -> Result:
        try:
            words = next(exchange)
            while True:
                try:
                    reply = self._execute(words)
                except Exception as error:  # noqa: BLE001 - the exchange says which of them are Redis's
                    words = exchange.throw(error)
                else:
                    words = exchange.send(reply)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            exchange.close()

    def _execute(self, words: Words) -> Any:
        if words != DISCONNECT:
            return self._client.execute_command(*words)
        if self._own:
            self._client.connection_pool.disconnect(inuse_connections=False)
        return None

    def close(self) -> None:
        """Close the connections. A later publish connects again."""
        if self._own:
            self._client.connection_pool.disconnect()
        self._desk.ledger.recover("The publisher was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPublisher:
    """As Publisher, for asyncio. It may be used from one event loop after the other; close it before each ends."""

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.asyncio.Redis | None = None,
        prefix: str = "notify",
        timeout: float = TIMEOUT,
        max_event_bytes: int = MAX_EVENT_BYTES,
        on_drop: DropCallback | None = None,
    ) -> None:
        self._desk = Desk(prefix, max_event_bytes, timeout, on_drop)
        if (url is None) == (client is None):
            raise ValueError("url or client: one of them is expected")
        self._url = url
        self._client = client or make_async_client(url or "", timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(CONNECTIONS)

    @property
    def dropped(self) -> int:
        """How many events this process has dropped."""
        return self._desk.ledger.dropped

    async def publish(
        self,
        channel: str,
        type: str,
        data: Any = None,
        *,
        final: bool = False,
        key: str | None = None,
        keep: int | None = None,
        ttl: int | None = None,
        collapse: str | None = None,
    ) -> str | None:
        """As ``Publisher.publish``. One that is cancelled may have been recorded or not."""
        return await self._carry(
            self._desk.publish(channel, type, data, final=final, key=key, keep=keep, ttl=ttl, collapse=collapse),
        )

    async def live(self, channel: str, type: str, data: Any = None) -> int | None:
        """As ``Publisher.live``."""
        return await self._carry(self._desk.live(channel, type, data))

    async def _carry(self, exchange: Exchange[Result]) -> Result:
        self._meet_loop()
        for _ in range(2):
            await asyncio.sleep(0)  # a loop that was busy sees only now that a connection has ended
        async with self._turns:
            deadline = asyncio.get_running_loop().time() + self._desk.timeout
            try:
                words = next(exchange)
                while True:
                    try:
                        reply = await self._execute(words, deadline)
                    except Exception as error:  # noqa: BLE001 - the exchange says which of them are Redis's
                        words = exchange.throw(error)
                    else:
                        words = exchange.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                exchange.close()

    async def _execute(self, words: Words, deadline: float) -> Any:
        if words == DISCONNECT:
            return await self._disconnect()
        task = asyncio.current_task()
        asked = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout_at(deadline):
                return await self._client.execute_command(*words)
        finally:
            # redis-py writes under asyncio.wait_for, which swallows a cancellation before Python 3.12 (python/cpython#86296).
            if task is not None and task.cancelling() > asked:
                raise asyncio.CancelledError

    def _meet_loop(self) -> None:
        # Connections belong to the loop they were made in: a task queue that runs each task with asyncio.run has many.
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._url is not None:
                self._client = make_async_client(self._url, self._desk.timeout)
            self._loop = loop
            self._turns = asyncio.Semaphore(CONNECTIONS)

    async def _disconnect(self, *, busy: bool = False) -> None:
        if self._url is not None:
            with suppress(redis.RedisError, OSError):  # TLS would wait for the farewell of a server that hangs
                async with asyncio.timeout(self._desk.timeout / 10):
                    await self._client.connection_pool.disconnect(inuse_connections=busy)

    async def close(self) -> None:
        """Close the connections. A later publish connects again."""
        await self._disconnect(busy=True)
        self._desk.ledger.recover("The publisher was closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
