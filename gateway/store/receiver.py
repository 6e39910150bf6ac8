"""Receiver: takes Redis's replies as their bytes come, parsed with hiredis in the event loop's own callback.

That costs a fifth of redis-py's way per message (0.75 against 4 us), and no task is woken for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import hiredis

MESSAGES_AT_ONCE: Final = 64  # between two turns of the event loop: each may go to thousands of clients
BUSY_SECONDS: Final = 0.002  # bytes that come sooner than that after the last ones: it is busy
GATHER_SECONDS: Final = (0.002, 0.004)  # that a busy connection is left alone, so that its messages are read several at a time
TOGETHER: Final = 12  # messages that it is left alone for, within these bounds: with more each gains little, and waits longer
READ_BYTES: Final = 65_536  # of what has gathered


class Lost(Exception):
    """The connection is gone; the text says why."""


class Receiver(asyncio.Protocol):
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
        self._gather = GATHER_SECONDS[1]
        self.heard_at = self._loop.time()

    async def wait(self) -> None:
        """Raise what the connection ends with."""
        await self._ended

    def data_received(self, data: bytes) -> None:
        if self._ended.done():
            return
        self.heard_at = self._loop.time()
        self._parser.feed(data)
        if not self._take_some():
            return
        if self.heard_at - self._listening_since < BUSY_SECONDS:
            self._transport.pause_reading()
            self._loop.call_later(self._gather, self._look)
        else:
            self._listening_since = self.heard_at

    def _look(self) -> None:
        """Read what has gathered, and look again later. A transport that is resumed and paused for that asks the kernel five times."""
        readable = self._descriptor >= 0 and not self._ended.done() and not self._transport.is_closing()
        try:
            data = os.read(self._descriptor, READ_BYTES) if readable else b""
        except OSError:  # nothing has come; or what the transport will find out, too
            data = b""
        if not data:
            self._listen()
            return
        self.heard_at = self._loop.time()
        self._parser.feed(data)
        if taken := self._take_some():
            shortest, longest = GATHER_SECONDS
            self._gather = min(longest, max(shortest, self._gather * TOGETHER / taken))
            self._loop.call_later(self._gather, self._look)

    def _listen(self) -> None:
        self._listening_since = self._loop.time()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_some(self) -> int:
        """Take what has come, and say how many that were, at least 1; 0 for a burst, whose rest is taken after others have had a turn."""
        try:
            for taken in range(MESSAGES_AT_ONCE):
                reply = self._parser.gets()
                if reply is False:
                    return taken or 1
                self._take(reply)
        except hiredis.HiredisError as error:
            self._end(Lost(f"what came is not Redis's protocol: {error}"))
        except Exception as error:  # noqa: BLE001 - raised where the end is awaited
            self._end(error)
        else:
            self._transport.pause_reading()
            self._loop.call_soon(self._take_rest)
        return 0

    def _take_rest(self) -> None:
        # Not from a connection that was given up: its confirmations are not the next one's.
        if not self._ended.done() and self._take_some():
            self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Lost(f"the server closed it: {exc}" if exc else "the server closed it"))

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
