"""Listener: the one pub/sub connection of this process, and its watchdog.

One task owns the connection. Others say which channels they want and wait for the shared confirmation. redis-py would
reconnect and resubscribe in silence; here every end of the connection is told (``on_lost``) before a new one is sought,
and a server that says nothing for ``silence`` seconds, though it was pinged, counts as lost.

redis-py opens the connection (TLS, AUTH, Sentinel); from then on its bytes are parsed here with hiredis, in the event loop's
own callback. That costs a fifth of redis-py's way per message (0.75 against 4 us), and no task is woken for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from gateway.store.connect import DEADLINE, is_elsewhere, make_connection

logger = logging.getLogger("gateway.listener")

PING_SECONDS: Final = 0.5
SENTINEL_SECONDS: Final = 1.0
MESSAGES_AT_ONCE: Final = 64  # between two turns of the event loop: each may go to thousands of clients
BUSY_SECONDS: Final = 0.002  # bytes that come sooner than that after the last ones: it is busy
GATHER_SECONDS: Final = 0.003  # that a busy connection is left alone, so that its messages are read several at a time
READ_BYTES: Final = 65_536  # of what has gathered
BATCH: Final = 1_000  # channels in one SUBSCRIBE
BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest wait before connecting again


class Lost(Exception):
    """The connection is gone; the text says why."""


class Listener:
    """Hears what is announced on the channels it was asked to follow.

    Args:
        client: makes the connection
        prefix: begins every pub/sub channel's name
        on_message: called with the name behind the prefix, and the payload
        on_lost: called when announcements may have been missed
        on_connected: awaited on a new connection, before anything is subscribed
        silence: seconds without a byte after which the server counts as gone
    """

    def __init__(
        self,
        client: Redis,
        prefix: str,
        *,
        on_message: Callable[[str, bytes], None],
        on_lost: Callable[[], None],
        on_connected: Callable[[], Any],
        silence: float = DEADLINE - PING_SECONDS,
    ) -> None:
        self.connects = 0
        self._client = client
        self._prefix = prefix.encode() + b":"
        self._skip = len(self._prefix)
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_connected = on_connected
        self._silence = silence
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._to_send: dict[str, bool] = {}  # name -> whether to subscribe (or to unsubscribe), in this order
        self._send_now = asyncio.Event()

    # What others ask for

    def subscribe(self, name: str) -> None:
        """Follow a channel from now on, across reconnections."""
        if name not in self._wanted:
            self._wanted[name] = asyncio.get_running_loop().create_future()
            self._to_send[name] = True
            self._send_now.set()

    def unsubscribe(self, name: str) -> bool:
        """Follow it no longer. Only what was confirmed can be given up: ``False`` says to try again later."""
        future = self._wanted.get(name)
        if future is None or not future.done():
            return False
        del self._wanted[name]
        self._to_send[name] = False
        self._send_now.set()
        return True

    async def confirmed(self, names: Iterable[str]) -> None:
        """Wait until Redis has confirmed all of these on the present connection."""
        while pending := [future for name in names if (future := self._wanted.get(name)) and not future.done()]:
            await asyncio.wait(pending[-1:])  # Redis confirms in order: with the last all of them, or nearly

    # The connection's owner

    async def run(self) -> None:
        """Keep a connection, for ever."""
        wait = BACKOFF[0]
        while True:
            connection = make_connection(self._client)
            started = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(2 * DEADLINE):
                    await connection.connect()
                    await self._on_connected()
                await self._session(connection)
            except* (Lost, RedisError, OSError, TimeoutError) as group:
                reason = _first(group)
                logger.warning("connection to Redis lost: %s: %s", type(reason).__name__, reason)
            finally:
                self._forget()
                await _disconnect(connection)
            lasted = asyncio.get_running_loop().time() - started
            wait = BACKOFF[0] if lasted > 1 else min(wait * 2, BACKOFF[1])
            await asyncio.sleep(wait * random.uniform(0.5, 1))

    def _forget(self) -> None:
        for name, future in self._wanted.items():
            if future.done():
                self._wanted[name] = asyncio.get_running_loop().create_future()
        self._on_lost()

    async def _session(self, connection: AbstractConnection) -> None:
        self.connects += 1
        self._to_send = dict.fromkeys(self._wanted, True)
        self._send_now.set()
        writer = connection._writer  # noqa: SLF001 - see the module's first lines
        assert writer is not None
        transport = cast("asyncio.Transport", writer.transport)
        receiver = _Receiver(self._take, transport)
        transport.set_protocol(receiver)
        async with asyncio.TaskGroup() as group:
            group.create_task(receiver.wait())
            group.create_task(self._send(connection))
            group.create_task(self._watch(connection, receiver))
            group.create_task(self._watch_sentinels(connection))

    async def _send(self, connection: AbstractConnection) -> None:
        while True:
            await self._send_now.wait()
            self._send_now.clear()
            changes, self._to_send = self._to_send, {}
            for command, wanted in (("UNSUBSCRIBE", False), ("SUBSCRIBE", True)):
                names = [self._prefix + name.encode() for name, want in changes.items() if want is wanted]
                for i in range(0, len(names), BATCH):
                    await connection.send_command(command, *names[i : i + BATCH], check_health=False)
            await asyncio.sleep(GATHER_SECONDS)  # so that many who come one after the other are asked for together

    async def _watch(self, connection: AbstractConnection, receiver: _Receiver) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await connection.send_command("PING", check_health=False)
            before = loop.time()
            await asyncio.sleep(max(0.0, min(PING_SECONDS, receiver.heard_at + self._silence - before)))
            if loop.time() - before > 2 * PING_SECONDS:
                # It was this process that stood still: what has come meanwhile is still to be read.
                receiver.heard_at = max(receiver.heard_at, loop.time() - self._silence + PING_SECONDS)
            if loop.time() - receiver.heard_at >= self._silence:
                raise Lost(f"nothing heard for {self._silence} s")

    async def _watch_sentinels(self, connection: AbstractConnection) -> None:
        # A master that is replaced while it is well learns of it ten seconds later, and takes events until then.
        while True:
            await asyncio.sleep(SENTINEL_SECONDS)
            with suppress(RedisError, OSError):
                if await is_elsewhere(self._client, connection):
                    raise Lost("the Sentinels name another master")

    def _take(self, reply: Any) -> None:
        if type(reply) is list and reply[0] == b"message":
            self._on_message(reply[1][self._skip :].decode("latin-1"), reply[2])
        elif isinstance(reply, Exception):
            raise Lost(f"the server said: {reply}")
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            future = self._wanted.get(reply[1][self._skip :].decode("latin-1"))
            if future is not None and not future.done():
                future.set_result(None)


class _Receiver(asyncio.Protocol):
    """Takes replies as the bytes come; from a busy connection some milliseconds' worth of them at a time.

    To be woken, to read and to find one's code and data again in the caches costs as much as three messages. 2,000 events a second,
    each to one client, are delivered for half of what they cost one by one, 2 ms later; a message that comes alone is not kept
    (loadtest/experiments/gathered-reads).

    Attributes:
        heard_at: when the last bytes came, by the event loop's clock
    """

    def __init__(self, take: Callable[[Any], None], transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._transport = transport
        self._parser = hiredis.Reader()
        # The bytes of TLS are the transport's to read.
        self._descriptor = -1 if transport.get_extra_info("ssl_object") else transport.get_extra_info("socket").fileno()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._listening_since = 0.0
        self.heard_at = self._loop.time()

    async def wait(self) -> None:
        """Raise what the connection ends with."""
        await self._ended

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._parser.feed(data)
        if not self._take_some():
            return
        if self.heard_at - self._listening_since < BUSY_SECONDS:
            self._transport.pause_reading()
            self._loop.call_later(GATHER_SECONDS, self._look)
        else:
            self._listening_since = self.heard_at

    def _look(self) -> None:
        """Read what has gathered, and look again later. A transport that is resumed and paused for that asks the kernel five times."""
        data = b""
        if self._descriptor >= 0 and not self._transport.is_closing():
            with suppress(OSError):  # nothing has come; or what the transport will find out, too
                data = os.read(self._descriptor, READ_BYTES)
        if not data:
            self._listen()
            return
        self.heard_at = self._loop.time()
        self._parser.feed(data)
        if self._take_some():
            self._loop.call_later(GATHER_SECONDS, self._look)

    def _listen(self) -> None:
        self._listening_since = self._loop.time()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_some(self) -> bool:
        """Take what has come; ``False`` if that is a burst, whose rest is taken after others have had a turn."""
        try:
            for _ in range(MESSAGES_AT_ONCE):
                reply = self._parser.gets()
                if reply is False:
                    return True
                self._take(reply)
        except hiredis.HiredisError as error:
            self._end(Lost(f"what came is not Redis's protocol: {error}"))
        except Exception as error:  # noqa: BLE001 - raised where the end is awaited
            self._end(error)
        else:
            self._transport.pause_reading()
            self._loop.call_soon(self._take_rest)
        return False

    def _take_rest(self) -> None:
        if self._take_some():
            self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Lost(f"the server closed it: {exc}" if exc else "the server closed it"))

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)


async def _disconnect(connection: AbstractConnection) -> None:
    # nowait: a server that hangs would never answer the goodbye.
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
