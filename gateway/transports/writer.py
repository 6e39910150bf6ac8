"""Writers: carry encoded bytes to one client, and report when too many of them wait.

Under our own server ``scope["extensions"]`` holds a writer that writes to the socket at once (server/streams.py, server/sockets.py).
Under any other ASGI server, or behind middleware that hides that, ``SendWriter`` carries the bytes through ``send``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

EXTENSION: Final = "gateway.writer"
HIGH_BYTES: Final = 131_072  # with more bytes waiting, a writer is full
LOW_BYTES: Final = 32_768  # with fewer bytes waiting, a full writer has room again

Message = MutableMapping[str, Any]  # of ASGI, as are the next two
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


def nothing() -> None:
    """A callback that does nothing."""


class Writer(Protocol):
    """Carries bytes to one client.

    Attributes:
        on_full: called when more than ``HIGH_BYTES`` wait to be taken by the client
        on_room: called after that, when fewer than ``LOW_BYTES`` are left
        on_gone: called when the client is gone; nothing may be written from then on
    """

    on_full: Callable[[], object]
    on_room: Callable[[], object]
    on_gone: Callable[[], object]

    @property
    def write(self) -> Callable[[bytes], object]:
        """Takes bytes; never blocks and never fails."""

    def buffered(self) -> int:
        """The number of bytes that the client has not taken yet, as far as that is known."""

    def taken(self) -> int:
        """A number that grows whenever the client takes bytes, to see whether it takes any."""

    def be_patient(self) -> None:
        """The client takes bytes slowly: leave it to the caller when to give it up."""

    def abort(self) -> None:
        """Cut the connection, and drop the bytes that wait."""


class DirectStream(Writer, Protocol):
    """The writer of a response in chunks under our own server (server/streams.py)."""

    def take_head(self) -> bytes:
        """The head of the response that was started, which the caller must write before anything else; empty if it was sent already."""

    def detach(self) -> bool:
        """Let the response outlive the application's call; ``False`` if that is not possible, or the client is gone already."""

    def end(self) -> None:
        """End the response."""


class DirectSocket(Writer, Protocol):
    """The writer of a WebSocket under our own server (server/sockets.py)."""

    def hold_head(self) -> None:
        """Do not send the head of the answer when the upgrade is accepted, but leave it to ``take_head``."""

    def take_head(self) -> bytes:
        """The head that was held back, which the caller must write before anything else; empty if there is none."""

    def detach(self, on_message: Callable[[Message], None]) -> bool:
        """Let the connection outlive the application's call; ``False`` if the client is gone already.

        Args:
            on_message: called with one message at a time; the next one comes only after ``message_done``
        """

    def message_done(self) -> None:
        """The message has been handled, so the next one may come."""


async def until_gone(receive: Receive) -> None:
    """Wait until the client of an HTTP request is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class SendWriter:
    """A writer over ASGI's ``send``, with a task of its own (``run``).

    Args:
        send: of ASGI
        message: makes an ASGI message of bytes
        join: whether the bytes of several writes may go into one message
    """

    def __init__(self, send: Send, message: Callable[[bytes], Message], *, join: bool) -> None:
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
        """Queue bytes. The queue stays small, because a client whose writer is full is behind, and is given no more."""
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

    def be_patient(self) -> None:
        """Do nothing: the connection is the server's."""

    def abort(self) -> None:
        self._aborted.set()

    async def aborted(self) -> None:
        """Wait until ``abort`` is called."""
        await self._aborted.wait()

    async def flushed(self) -> None:
        """Wait until everything is sent."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send what is written, until cancelled.

        Raises:
            OSError: if the client is gone.
        """
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
