"""Publisher and AsyncPublisher: send the commands of an exchange to Redis, and give it the replies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Self, TypeVar

import redis
import redis.asyncio

from notify_client.command import MAX_EVENT_BYTES, Command
from notify_client.connection import make_async_client, make_client
from notify_client.exchange import DISCONNECT, Exchange, PublisherCore
from notify_client.outage import DropCallback

Result = TypeVar("Result")

TIMEOUT: Final = 0.5
CONNECTIONS: Final = 16  # that a publisher uses at once: more threads, greenlets or tasks that publish at the same time take turns


def _check_source(url: str | None, client: object, wrong: tuple[type, ...]) -> None:
    if (url is None) == (client is None):
        raise ValueError("url or client: one of them is expected")
    if isinstance(client, wrong):
        # It would publish nothing, and return a coroutine that nobody awaits; or the other way round block the event loop.
        name = f"{type(client).__module__}.{type(client).__name__}"
        raise TypeError(f"client: {name} is for the other class: AsyncPublisher takes clients of redis.asyncio, Publisher all others")


def _make_turns() -> SimpleQueue[None]:
    """A queue and not a semaphore, which hangs if a signal handler or a finalizer publishes while its thread takes or returns a turn."""
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(CONNECTIONS):
        turns.put(None)
    return turns


class Publisher:
    """Publishes events, from threads and forked workers, without ever holding them up.

    Args:
        url: of Redis: ``redis://``, ``rediss://`` or ``unix://``
        client: a redis-py client instead of the URL; its own timeouts and retries apply then
        prefix: as the gateway's GATEWAY_PREFIX
        timeout: seconds after which a call returns, whatever Redis does
        max_event_bytes: as the gateway's GATEWAY_MAX_EVENT_BYTES
        on_drop: called with the channel, the type and the reason, an exception, for each event that is dropped; what it raises is logged

    Raises:
        ValueError: if an argument is wrong.
        TypeError: if the client is of the kind for ``AsyncPublisher``.
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
        self._core = PublisherCore(prefix, max_event_bytes, timeout, on_drop)
        _check_source(url, client, (redis.asyncio.Redis, redis.asyncio.RedisCluster))
        self._url = url
        self._client = client or make_client(url or "", timeout)
        self._turns = _make_turns()
        self._process = os.getpid()

    def _restart(self) -> None:
        """In a forked child: another thread of the parent may have held a turn, or a lock in its redis-py pool."""
        self._turns = _make_turns()
        if self._url is not None:
            self._client = make_client(self._url, self._core.timeout)
        self._process = os.getpid()  # last: by it the child's other threads tell that the rest is theirs

    @property
    def dropped(self) -> int:
        """How many events this process has dropped."""
        return self._core.drops.dropped

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
            key: an idempotency key: on one channel, only the first event with the same key within 24 h is recorded
            keep: how many events to keep in the channel's log; 100 if not given
            ttl: for how many seconds to keep them after this one; a day if not given
            collapse: a label: if the newest event in the log has the same label, this one takes its place there

        Returns:
            The event's id; ``None`` if the event was dropped because Redis was away or refused it. If only the answer was lost, the
            event may have been recorded, so publish it again only with a key.

        Raises:
            ValueError: if an argument is wrong; the error names it and the rule.
        """
        return self._carry(
            self._core.publish(channel, type, data, final=final, key=key, keep=keep, ttl=ttl, collapse=collapse),
        )

    def live(self, channel: str, type: str, data: Any = None) -> int | None:
        """Send an event to whoever is connected, without recording it.

        Args:
            channel: where to
            type: what happened
            data: any JSON value

        Returns:
            How many gateways heard it: with 0, nobody follows the channel. ``None`` if it was dropped.

        Raises:
            ValueError: if an argument is wrong; the error names it and the rule.
        """
        return self._carry(self._core.live(channel, type, data))

    def _carry(self, exchange: Exchange[Result]) -> Result:
        if self._process != os.getpid():
            self._restart()
        turns = self._turns
        # If there is no turn within the timeout, Redis is slow (one that hangs is noticed sooner). Then the call goes on without a turn,
        # over a further connection, rather than wait any longer.
        try:
            turns.get(timeout=self._core.timeout)
            mine = True
        except Empty:
            mine = False
        try:
            return self._run(exchange)
        finally:
            if mine:
                turns.put(None)

    def _run(self, exchange: Exchange[Result]) -> Result:
        try:
            command = next(exchange)
            while True:
                try:
                    reply = self._execute(command)
                except Exception as error:  # noqa: BLE001 - the exchange decides what to do with it
                    command = exchange.throw(error)
                else:
                    command = exchange.send(reply)
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            exchange.close()

    def _execute(self, command: Command) -> Any:
        if command == DISCONNECT:
            if self._url is not None:
                self._client.connection_pool.disconnect(inuse_connections=False)
            return None
        try:
            return self._client.execute_command(*command)
        except (redis.RedisError, OSError):
            raise
        except (AttributeError, ValueError) as error:
            # What redis-py raises, above all without hiredis, if another thread closes the publisher at this moment; and what a wrong
            # option of the URL, or a function that gives the password, leads to. None of it may fail a job.
            raise redis.ConnectionError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            # A signal handler has raised it, as Celery's soft time limit does. If that was between the command and its reply, redis-py
            # keeps the connection, and the next command would get this one's reply. A pool of a ``client`` may not be able to do this.
            with suppress(AttributeError, TypeError):
                self._client.connection_pool.disconnect(inuse_connections=False)
            raise

    def close(self) -> None:
        """Close the connections, but not those of a ``client`` that was given. A later publish connects again."""
        if self._process != os.getpid():
            return  # a forked child that has published nothing
        if self._url is not None:
            self._client.connection_pool.disconnect()
        self._core.drops.recover("The publisher was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _OfLoop:
    """What belongs to one event loop: a client, whose connections work on no other, and the turns at them."""

    client: redis.asyncio.Redis
    turns: asyncio.Semaphore


class AsyncPublisher:
    """``Publisher`` for asyncio: the same arguments, methods to ``await``, and errors.

    It may be used on several event loops, in turn or in several threads at once; close it before each one ends.
    """

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
        self._core = PublisherCore(prefix, max_event_bytes, timeout, on_drop)
        _check_source(url, client, (redis.Redis, redis.RedisCluster))
        self._url = url
        self._client = client  # that was given; otherwise each event loop has one of its own
        if url is not None:
            make_async_client(url, timeout)  # which refuses a wrong URL now, and not in the middle of a job
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._inherited: list[_OfLoop] = []
        self._process = os.getpid()

    @property
    def dropped(self) -> int:
        """How many events this process has dropped."""
        return self._core.drops.dropped

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
        """As ``Publisher.publish``. If it is cancelled, the event may or may not have been recorded."""
        return await self._carry(
            self._core.publish(channel, type, data, final=final, key=key, keep=keep, ttl=ttl, collapse=collapse),
        )

    async def live(self, channel: str, type: str, data: Any = None) -> int | None:
        """As ``Publisher.live``."""
        return await self._carry(self._core.live(channel, type, data))

    async def _carry(self, exchange: Exchange[Result]) -> Result:
        ours = self._of_loop()
        for _ in range(2):
            await asyncio.sleep(0)  # so that an event loop that was busy notices a connection that has ended meanwhile
        async with ours.turns:
            deadline = asyncio.get_running_loop().time() + self._core.timeout
            try:
                command = next(exchange)
                while True:
                    try:
                        reply = await self._execute(ours.client, command, deadline)
                    except Exception as error:  # noqa: BLE001 - the exchange decides what to do with it
                        command = exchange.throw(error)
                    else:
                        command = exchange.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                exchange.close()

    async def _execute(self, client: redis.asyncio.Redis, command: Command, deadline: float) -> Any:
        if command == DISCONNECT:
            with suppress(TimeoutError):
                await _cancelled_only_if_asked(self._disconnect(client))
            return None
        return await _cancelled_only_if_asked(self._send(client, command, deadline))

    async def _send(self, client: redis.asyncio.Redis, command: Command, deadline: float) -> Any:
        async with asyncio.timeout_at(deadline):
            return await client.execute_command(*command)

    def _of_loop(self) -> _OfLoop:
        """What belongs to the running event loop; a task queue may run each task with asyncio.run, and in several threads."""
        if self._process != os.getpid():
            # In a forked child. It must keep the connections of its parent's event loops: redis-py would close what is collected, and take
            # it out of the selector, which the two processes share, so that the parent would hear no more replies.
            self._inherited += self._loops.values()
            self._loops = {}
            self._process = os.getpid()
        loop = asyncio.get_running_loop()
        ours = self._loops.get(loop)
        if ours is None:
            for other in list(self._loops):
                if not other.is_running():  # most likely it has ended, and then its connections cannot be closed
                    self._loops.pop(other, None)
            client = self._client or make_async_client(self._url or "", self._core.timeout)
            ours = self._loops[loop] = _OfLoop(client, asyncio.Semaphore(CONNECTIONS))
        return ours

    async def _disconnect(self, client: redis.asyncio.Redis, *, busy: bool = False) -> None:
        if self._url is not None:
            with suppress(redis.RedisError, OSError):  # closing TLS waits for the server, which may hang
                async with asyncio.timeout(self._core.timeout / 10):
                    await client.connection_pool.disconnect(inuse_connections=busy)

    async def close(self) -> None:
        """As ``Publisher.close``, for the connections of the running event loop."""
        await self._disconnect(self._of_loop().client, busy=True)
        self._core.drops.recover("The publisher was closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _cancelled_only_if_asked(work: Awaitable[Any]) -> Any:
    """Await some work that has timeouts, and be cancelled by it if and only if somebody has asked for that meanwhile.

    Raises:
        TimeoutError: in place of a cancellation that nobody has asked for.
    """
    task = asyncio.current_task()
    asked = task.cancelling() if task is not None else 0
    try:
        return await work
    except asyncio.CancelledError:
        # Before Python 3.11.3 this is what a timeout looks like in a task that was cancelled before and goes on, for instance to publish
        # that it has failed (python/cpython#102780).
        raise TimeoutError("no answer in time") from None
    finally:
        # redis-py writes under asyncio.wait_for, which can swallow a cancellation before Python 3.12 (python/cpython#86296).
        if task is not None and task.cancelling() > asked:
            raise asyncio.CancelledError
