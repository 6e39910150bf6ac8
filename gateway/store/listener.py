"""Listener: the one pub/sub connection of this process, and its watchdog.

One task owns the connection. Other tasks ask for channels and wait until Redis has confirmed them. redis-py would reconnect and
resubscribe without telling anybody; here every end of the connection is reported (``on_lost``) before a new one is made, and a server
that says nothing for ``silence`` seconds, although it was pinged, counts as lost.

redis-py opens the connection (TLS, AUTH, Sentinel). From then on the receiver reads its bytes, which is why redis-py's private writer
is used here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.store.client import DEADLINE, is_elsewhere
from gateway.store.connection import inspect_server, make_connection
from gateway.store.receiver import Lost, Receiver
from gateway.tasks import until_one_ends

logger = logging.getLogger("gateway.listener")

PING_SECONDS: Final = 0.5
MASTER_SECONDS: Final = 1.0  # between two checks whether the server is still the master
ADDRESS_CHECKS: Final = 5  # every fifth of these checks uses a new connection, to see where the address leads now
CANNOT_SAVE: Final = "MISCONF "  # begins the answer to a ping of a server whose disk is full, but which still passes announcements on
BATCH: Final = 1_000  # channels in one SUBSCRIBE
# How many subscriptions may await their confirmation: Redis cuts a listener that is 32 MB of output behind, which is what the
# confirmations of 300,000 channels take.
UNCONFIRMED: Final = 10_000
GATHER_SECONDS: Final = 0.003  # between two SUBSCRIBEs, so that channels wanted one after the other go into one command
BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest wait before connecting again


class Listener:
    """Hears what is announced on the channels it was asked to follow.

    Args:
        client: makes the connection
        prefix: begins every pub/sub channel's name
        on_message: called with a channel's name without the prefix, and the payload
        on_lost: called when announcements may have been missed
        on_connected: awaited on each new connection, before anything is subscribed
        on_master: called whenever the server has confirmed that it is the master, so that all that was heard until now is its own
        silence: seconds without a byte after which the server counts as gone

    Attributes:
        connects: how many connections there have been
        relayed: whether the server of the last connection may have become a replica before its end: a replica passes on the
            announcements of its master
    """

    def __init__(
        self,
        client: Redis,
        prefix: str,
        *,
        on_message: Callable[[str, bytes], None],
        on_lost: Callable[[], None],
        on_connected: Callable[[], Any],
        on_master: Callable[[], None] = lambda: None,
        silence: float = DEADLINE - PING_SECONDS,
    ) -> None:
        self.connects = 0
        self.relayed = False
        self._lost_at: float | None = None  # by the monotonic clock; None while there is a connection, and before the first one
        self._client = client
        self._prefix = prefix.encode() + b":"
        self._skip = len(self._prefix)
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_connected = on_connected
        self._on_master = on_master
        self._silence = silence
        # Subscriptions are numbered as they are asked for. Redis confirms them in that order, so a channel is confirmed once the
        # number of confirmations has reached its own number.
        self._wanted: dict[str, int] = {}  # channel -> its number on this connection; in rising order
        self._asked = 0
        self._confirmed = 0
        self._awaited = math.inf  # the lowest number that somebody waits for in ``confirmed``
        self._reached = asyncio.Event()
        self._room_at = math.inf  # the number that has to be confirmed before more is asked for
        self._room = asyncio.Event()
        self._to_send: dict[str, bool] = {}  # channel -> whether to subscribe (or to unsubscribe), in this order
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
            self._to_send.pop(name, None)  # added at the end again, so that channels are sent in the order of their numbers
            self._to_send[name] = True
            self._send_now.set()

    def unsubscribe(self, name: str) -> bool:
        """Stop following a channel.

        Returns:
            ``False`` if that is not possible now, because the channel is unknown or its subscription is not confirmed yet
        """
        if self._lost_at is not None:
            # Without a connection there is nothing to confirm: channels must not pile up while Redis is away.
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
            self._awaited = min(self._awaited, last)
            await self._reached.wait()

    def _wake_waiters(self) -> None:
        """Let those who wait in ``confirmed`` check again."""
        self._awaited = math.inf
        self._reached.set()
        self._reached.clear()

    def _unconfirm(self) -> None:
        """Number all channels anew, and ask the next connection for all of them."""
        self._wanted = {name: number for number, name in enumerate(self._wanted, 1)}
        self._asked = len(self._wanted)
        self._confirmed = 0
        self._to_send = dict.fromkeys(self._wanted, True)
        self._wake_waiters()

    # The connection's owner

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        wait = BACKOFF[0]
        while True:
            connection = None
            started = asyncio.get_running_loop().time()
            try:
                connection = make_connection(self._client)  # redis-py reads a file for it, which fails while no file can be opened
                async with asyncio.timeout(2 * DEADLINE):
                    await connection.connect()
                    await self._on_connected()
                await self._session(connection)
            except (Lost, RedisError, OSError) as reason:
                logger.warning("connection to Redis lost: %s: %s", type(reason).__name__, reason)
            finally:
                self._lost_at = self._lost_at or time.monotonic()
                self._unconfirm()
                self._on_lost()
                if connection is not None:
                    await _disconnect(connection)
            lasted = asyncio.get_running_loop().time() - started
            wait = BACKOFF[0] if lasted > 1 else min(wait * 2, BACKOFF[1])
            await asyncio.sleep(wait * random.uniform(0.5, 1))

    async def _session(self, connection: AbstractConnection) -> None:
        self.connects += 1
        self.relayed = False
        self._lost_at = None
        if len(self._wanted) < self._asked:
            self._unconfirm()  # some channels were given up since, and the numbers must have no holes
        self._send_now.set()
        writer = connection._writer  # noqa: SLF001 - see the module's first lines
        assert writer is not None
        transport = cast("asyncio.Transport", writer.transport)
        receiver = Receiver(self._take, transport)
        transport.set_protocol(receiver)
        await until_one_ends(receiver.wait(), self._send(connection), self._watch(connection, receiver), self._watch_master(connection))

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
                    if wanted:
                        sent += len(batch)
                        await self._wait_for_room(sent)
                    await asyncio.sleep(0)  # let other tasks have their turn
            await asyncio.sleep(GATHER_SECONDS)

    async def _wait_for_room(self, sent: int) -> None:
        """Wait until at most ``UNCONFIRMED`` of the subscriptions that were sent are not confirmed yet."""
        if sent - self._confirmed > UNCONFIRMED:
            self._room_at = sent - UNCONFIRMED
            self._room.clear()
            await self._room.wait()

    async def _watch(self, connection: AbstractConnection, receiver: Receiver) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await connection.send_command("PING", check_health=False)
            before = loop.time()
            await asyncio.sleep(max(0.0, min(PING_SECONDS, receiver.heard_at + self._silence - before)))
            if loop.time() - before > 2 * PING_SECONDS:
                # This process stood still, not the server: what has come meanwhile must be read first.
                receiver.heard_at = max(receiver.heard_at, loop.time() - self._silence + PING_SECONDS)
            if loop.time() - receiver.heard_at >= self._silence:
                raise Lost(f"nothing heard for {self._silence} s")

    async def _watch_master(self, connection: AbstractConnection) -> None:
        """Give the connection up when its server is no longer the master.

        A master that is replaced while it is healthy does not close its connections. With Sentinels it learns of its replacement some
        ten seconds later, and accepts events until then. Without them it goes on passing on what its new master announces, except for
        what is published before it has connected to that.
        """
        name = next(iter(self._wanted), "")
        await self.confirmed([name])
        known = False  # whether the server that our commands go to has ever had this connection as a subscriber
        failure = ""  # of the last new connection
        for check in count(1):
            anew = check % ADDRESS_CHECKS == 0
            try:
                if await is_elsewhere(self._client, connection):
                    raise Lost("the Sentinels name another master")
                followed, replica = await inspect_server(self._client, self._prefix + name.encode(), anew=anew)
                moved = known and followed is False and name in self._wanted
                known |= followed is True
                if moved or replica:
                    self.relayed = True
                    raise Lost("the address leads to another server now" if moved else "it has become a replica")
                if followed:
                    self._on_master()
                if anew:
                    failure = ""
            except (RedisTimeoutError, TimeoutError):
                pass  # a server that hangs is noticed by its silence
            except (RedisError, OSError) as error:
                # A password or a certificate may have been changed long before the connection is lost, and then all of them are.
                if anew and str(error) != failure:
                    failure = str(error)
                    logger.warning("Redis takes no new connection, only the present one is left: %s: %s", type(error).__name__, failure)
            # No pause before a check that uses a new connection: if that finds another server, what was heard until just before is
            # known to have come from this one.
            if (check + 1) % ADDRESS_CHECKS:
                await asyncio.sleep(MASTER_SECONDS)

    def _take(self, reply: Any) -> None:
        if type(reply) is list and reply[0] == b"message":
            self._on_message(reply[1][self._skip :].decode("latin-1"), reply[2])
        elif isinstance(reply, Exception) and not str(reply).startswith(CANNOT_SAVE):
            raise Lost(f"the server said: {reply}")
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._confirmed += 1
            if self._confirmed >= self._awaited:
                self._wake_waiters()
            if self._confirmed >= self._room_at:
                self._room_at = math.inf
                self._room.set()


async def _disconnect(connection: AbstractConnection) -> None:
    # nowait: a server that hangs would never answer the goodbye.
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)
