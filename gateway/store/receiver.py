"""Receiver: takes Redis's replies as their bytes come, parsed with hiredis right in the event loop's callback.

That costs a fifth of what redis-py needs for a message (0.75 instead of 4 us), and wakes no task.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import hiredis

MESSAGES_AT_ONCE: Final = 64  # handled in one turn of the event loop: each may go to thousands of clients
BUSY_SECONDS: Final = 0.002  # a connection is busy if bytes come within this time after the last ones
GATHER_SECONDS: Final = (0.002, 0.005)  # shortest and longest pause between two reads of a busy connection, in which messages gather
TOGETHER: Final = 12  # messages that should gather in a pause: with more of them each gains little and waits longer
LENGTHEN: Final = 1.05  # times the last pause, at most: one slow moment of a publisher must not make the events after it late
READ_BYTES: Final = 65_536  # read at once after a pause


class Lost(Exception):
    """The connection is gone; the text says why."""


def next_pause(pause: float, taken: int) -> float:
    """How long to wait before the next read of a busy connection, so that about ``TOGETHER`` messages come meanwhile.

    Args:
        pause: the one before the last read, in seconds
        taken: how many messages that read has brought, at least 1
    """
    shortest, longest = GATHER_SECONDS
    return min(longest, max(shortest, pause * min(LENGTHEN, TOGETHER / taken)))


class Receiver(asyncio.Protocol):
    """Takes replies as the bytes come; from a busy connection, several at a time after a pause of some milliseconds.

    Being woken, reading, and loading code and data into the CPU's caches again costs as much as three messages. With pauses, 2,000
    events a second that go to one client each cost half as much CPU and arrive 3 ms later. A message that comes alone is not held back
    (loadtest/experiments/gathered-reads).

    Args:
        take: called with each reply, in order; what it raises ends the receiver
        transport: a connection to Redis, whose protocol this is to become

    Attributes:
        heard_at: when the last bytes came, by the event loop's clock
    """

    def __init__(self, take: Callable[[Any], None], transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._transport = transport
        self._parser = hiredis.Reader()
        # A TLS connection is decrypted by its transport, so its socket cannot be read directly.
        self._descriptor = -1 if transport.get_extra_info("ssl_object") else transport.get_extra_info("socket").fileno()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._listening_since = 0.0
        self._gather = GATHER_SECONDS[1]
        self.heard_at = self._loop.time()

    async def wait(self) -> None:
        """Wait for the end of the connection, which is always an error.

        Raises:
            Lost: if the connection is gone, or brings something other than Redis's protocol.
            Exception: what ``take`` has raised.
        """
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
            self._loop.call_later(self._gather, self._read_gathered)
        else:
            self._listening_since = self.heard_at

    def _read_gathered(self) -> None:
        """Read what has gathered, and again after the next pause.

        The socket is read directly: resuming and pausing the transport for each read would take five system calls.
        """
        readable = self._descriptor >= 0 and not self._ended.done() and not self._transport.is_closing()
        try:
            data = os.read(self._descriptor, READ_BYTES) if readable else b""
        except OSError:  # nothing has come, or an error that the transport will meet as well
            data = b""
        if not data:
            self._resume()
            return
        self.heard_at = self._loop.time()
        self._parser.feed(data)
        if taken := self._take_some():
            self._gather = next_pause(self._gather, taken)
            self._loop.call_later(self._gather, self._read_gathered)

    def _resume(self) -> None:
        self._listening_since = self._loop.time()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_some(self) -> int:
        """Take the replies that have come, up to a bound.

        Returns:
            how many, at least 1; or 0 if the receiver has ended, or after a burst whose rest is taken once others have had their turn
        """
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
        # Nothing is taken from a connection that was given up, or its confirmations would be mistaken for the next one's.
        if not self._ended.done() and self._take_some():
            self._resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Lost(f"the server closed it: {exc}" if exc else "the server closed it"))

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
