"""Listener: the one pub/sub connection of this process, and its watchdog.

One task owns the connection. Others say which channels they want and wait for the shared confirmation. redis-py would
reconnect and resubscribe in silence; here every end of the connection is told (``on_lost``) before a new one is sought,
and a server that says nothing for ``silence`` seconds, though it was pinged, counts as lost.

redis-py opens the connection (TLS, AUTH, Sentinel); from then on its bytes are the receiver's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from gateway.store.connect import DEADLINE, is_elsewhere, look, make_connection
from gateway.store.receiver import Lost, Receiver

logger = logging.getLogger("gateway.listener")

PING_SECONDS: Final = 0.5
MASTER_SECONDS: Final = 1.0  # between two looks whether it still is the master
CANNOT_SAVE: Final = "MISCONF "  # how a ping is refused by a server whose disk is full, which announces all the same
BATCH: Final = 1_000  # channels in one SUBSCRIBE
# Channels whose confirmation has not come: Redis cuts a listener that does not take 32 MB, and the names of 300,000 are as much.
UNCONFIRMED: Final = 10_000
GATHER_SECONDS: Final = 0.003  # between two of them, so that many who come one after the other are asked for together
BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest wait before connecting again


class Listener:
    """Hears what is announced on the channels it was asked to follow.

    Args:
        client: makes the connection
        prefix: begins every pub/sub channel's name
        on_message: called with the name behind the prefix, and the payload
        on_lost: called when announcements may have been missed
        on_connected: awaited on a new connection, before anything is subscribed
        silence: seconds without a byte after which the server counts as gone

    Attributes:
        connects: how many connections there were
        relayed: whether the last one ended with a server that may have been a replica by then: it says what its master announces
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
        self.relayed = False
        self._lost_at: float | None = None  # by the monotonic clock; while there is a connection, and before the first, none
        self._client = client
        self._prefix = prefix.encode() + b":"
        self._skip = len(self._prefix)
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_connected = on_connected
        self._silence = silence
        # Redis confirms in the order in which it was asked, so a number says of each channel whether that has happened.
        self._wanted: dict[str, int] = {}  # name -> its number among all that this connection is asked for; rising
        self._asked = 0
        self._confirmed = 0
        self._goal = math.inf  # of those who wait: the first number that one of them waits for
        self._reached = asyncio.Event()
        self._room_at = math.inf  # of the sender: the number that has to be confirmed before it asks for more
        self._room = asyncio.Event()
        self._to_send: dict[str, bool] = {}  # name -> whether to subscribe (or to unsubscribe), in this order
        self._send_now = asyncio.Event()

    @property
    def away(self) -> float:
        """Seconds since the connection was lost; 0 while there is one."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    # What others ask for

    def subscribe(self, name: str) -> None:
        """Follow a channel from now on, across reconnections."""
        if name not in self._wanted:
            self._asked += 1
            self._wanted[name] = self._asked
            self._to_send.pop(name, None)  # so that the order is that of the numbers
            self._to_send[name] = True
            self._send_now.set()

    def unsubscribe(self, name: str) -> bool:
        """Follow it no longer. Only what was confirmed, or not asked for yet, can be given up: ``False`` says to try again later."""
        if self._lost_at is not None:
            # Else those who come and go while Redis is away would leave their channels behind for as long.
            self._to_send.pop(name, None)
            return self._wanted.pop(name, None) is not None
        if not 0 < self._wanted.get(name, 0) <= self._confirmed:
            return False
        del self._wanted[name]
        self._to_send[name] = False
        self._send_now.set()
        return True

    async def confirmed(self, names: Iterable[str]) -> None:
        """Wait until Redis has confirmed all of these on the present connection."""
        names = tuple(names)
        while (last := max([self._wanted.get(name, 0) for name in names], default=0)) > self._confirmed:
            self._goal = min(self._goal, last)
            await self._reached.wait()

    def _reach(self) -> None:
        """Let those who wait look again."""
        self._goal = math.inf
        self._reached.set()
        self._reached.clear()

    def _unconfirm(self) -> None:
        """The connection is gone: the next one is to be asked for all of it."""
        self._wanted = {name: number for number, name in enumerate(self._wanted, 1)}
        self._asked = len(self._wanted)
        self._confirmed = 0
        self._to_send = dict.fromkeys(self._wanted, True)
        self._reach()

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
                self._lost_at = self._lost_at or time.monotonic()
                self._unconfirm()
                self._on_lost()
                await _disconnect(connection)
            lasted = asyncio.get_running_loop().time() - started
            wait = BACKOFF[0] if lasted > 1 else min(wait * 2, BACKOFF[1])
            await asyncio.sleep(wait * random.uniform(0.5, 1))

    async def _session(self, connection: AbstractConnection) -> None:
        self.connects += 1
        self.relayed = False
        self._lost_at = None
        if len(self._wanted) < self._asked:
            self._unconfirm()  # some were given up meanwhile, and the numbers have holes
        self._send_now.set()
        writer = connection._writer  # noqa: SLF001 - see the module's first lines
        assert writer is not None
        transport = cast("asyncio.Transport", writer.transport)
        receiver = Receiver(self._take, transport)
        transport.set_protocol(receiver)
        async with asyncio.TaskGroup() as group:
            group.create_task(receiver.wait())
            group.create_task(self._send(connection))
            group.create_task(self._watch(connection, receiver))
            group.create_task(self._watch_master(connection))

    async def _send(self, connection: AbstractConnection) -> None:
        sent = 0
        while True:
            await self._send_now.wait()
            self._send_now.clear()
            changes, self._to_send = self._to_send, {}
            for command, wanted in (("UNSUBSCRIBE", False), ("SUBSCRIBE", True)):
                names = [name for name, want in changes.items() if want is wanted]
                for i in range(0, len(names), BATCH):
                    batch = [self._prefix + name.encode() for name in names[i : i + BATCH]]
                    await connection.send_command(command, *batch, check_health=False)
                    sent += wanted * len(batch)
                    if sent - self._confirmed > UNCONFIRMED:
                        self._room_at = sent - UNCONFIRMED
                        self._room.clear()
                        await self._room.wait()
                    await asyncio.sleep(0)  # others have their turn
            await asyncio.sleep(GATHER_SECONDS)

    async def _watch(self, connection: AbstractConnection, receiver: Receiver) -> None:
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

    async def _watch_master(self, connection: AbstractConnection) -> None:
        # One that is replaced while it is well need not close its connections. With Sentinels it learns of it ten seconds later, and takes
        # events until then; without them it goes on to say what its own master announces, but for what comes while the two find each other.
        name = next(iter(self._wanted), "")
        await self.confirmed([name])
        known = False  # whether the server that commands go to has ever known what this connection follows
        while True:
            with suppress(RedisError, OSError):
                if await is_elsewhere(self._client, connection):
                    raise Lost("the Sentinels name another master")
                followed, replica = await look(self._client, self._prefix + name.encode())
                moved = known and followed is False and name in self._wanted
                known |= followed is True
                if moved or replica:
                    self.relayed = True
                    raise Lost("the address leads to another server now" if moved else "it has become a replica")
            await asyncio.sleep(MASTER_SECONDS)

    def _take(self, reply: Any) -> None:
        if type(reply) is list and reply[0] == b"message":
            self._on_message(reply[1][self._skip :].decode("latin-1"), reply[2])
        elif isinstance(reply, Exception) and not str(reply).startswith(CANNOT_SAVE):
            raise Lost(f"the server said: {reply}")
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._confirmed += 1
            if self._confirmed >= self._goal:
                self._reach()
            if self._confirmed >= self._room_at:
                self._room_at = math.inf
                self._room.set()


async def _disconnect(connection: AbstractConnection) -> None:
    # nowait: a server that hangs would never answer the goodbye.
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
