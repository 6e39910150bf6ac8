"""Writers: what carries ready bytes to one client, and says when it is full.

``server/protocols.py`` puts a writer of its own into ``scope["extensions"]``, which writes to the socket at once. Under any
other ASGI server, or mounted behind somebody's middleware, ``SendWriter`` carries the bytes through ``send``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, Protocol

EXTENSION: Final = "gateway.writer"
HIGH_BYTES: Final = 131_072  # full
LOW_BYTES: Final = 32_768  # has room again

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def nothing() -> None:
    """What is called where nobody wants to know."""


class Writer(Protocol):
    """Carries bytes to one client.

    Attributes:
        on_full: called when more than ``HIGH_BYTES`` wait
        on_room: called when fewer than ``LOW_BYTES`` are left of them
        on_gone: called when the client is gone; nothing may be written from then on
    """

    on_full: Callable[[], object]
    on_room: Callable[[], object]
    on_gone: Callable[[], object]

    @property
    def write(self) -> Callable[[bytes], object]:
        """Takes bytes; never blocks and never fails."""

    def buffered(self) -> int:
        """Bytes that wait."""

    def taken(self) -> int:
        """A number that grows whenever the client takes bytes."""

    def abort(self) -> None:
        """Cut the connection and throw away what waits."""


class DirectStream(Writer, Protocol):
    """What ``server/streams.py`` puts there for a response in chunks."""

    def take_head(self) -> bytes:
        """The head of the response that was started, to be written before anything else; empty if somebody else writes it."""

    def detach(self) -> bool:
        """Let it outlive the application's call. ``False``: it cannot, or the client is gone already."""

    def end(self) -> None:
        """End the response."""


class DirectSocket(Writer, Protocol):
    """What ``server/sockets.py`` puts there for a WebSocket."""

    def detach(self, on_message: Callable[[MutableMapping[str, Any]], None]) -> bool:
        """Let it outlive the application's call, and have its messages taken one by one. ``False``: the client is gone already."""

    def message_done(self) -> None:
        """A message is dealt with, the next one may come."""


async def finish(tasks: Collection[asyncio.Future[None]]) -> None:
    """Cancel tasks and wait for their ends. What they fail with is of no use any more.

    Not with ``gather``: that loses the words of a cancellation, by which anyio knows its own, of a test client for instance.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen, so that nobody complains of it


class SendWriter:
    """A writer over ASGI ``send``, with a task of its own (``run``)."""

    def __init__(self, send: Send, message: Callable[[bytes], MutableMapping[str, Any]], *, join: bool) -> None:
        self.on_full: Callable[[], object] = nothing
        self.on_room: Callable[[], object] = nothing
        self.on_gone: Callable[[], object] = nothing
        self._send = send
        self._message = message
        self._join = join
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._sent = 0
        self._full = False
        self._wake = asyncio.Event()
        self._aborted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def write(self, data: bytes) -> None:
        """Queue bytes. They are few: who is full is given no more."""
        self._waiting.append(data)
        self._size += len(data)
        self._idle.clear()
        self._wake.set()
        if self._size > HIGH_BYTES and not self._full:
            self._full = True
            self.on_full()

    def buffered(self) -> int:
        return self._size

    def taken(self) -> int:
        return self._sent

    def abort(self) -> None:
        self._aborted.set()

    async def aborted(self) -> None:
        """Wait until somebody has given the client up."""
        await self._aborted.wait()

    async def flushed(self) -> None:
        """Wait until all is sent."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send what was written, for ever. Ends with an ``OSError`` if the client is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                parts = [self._waiting.popleft() for _ in range(len(self._waiting) if self._join else 1)]
                data = b"".join(parts)
                await self._send(self._message(data))
                self._size -= len(data)
                self._sent += len(data)
                if self._full and self._size < LOW_BYTES:
                    self._full = False
                    self.on_room()
            self._idle.set()
