"""Streams: bytes that are ready, written straight to the socket, and what is left of an HTTP connection whose response goes on.

uvicorn builds a chunk for each client and awaits; the same bytes written to the transport cost a third. And it keeps a parser, a
scope, a task and the frames of all that called the endpoint for as long as the response lasts, 9 KiB of which nothing is needed any
more. Here the application may return and leave its stream behind (``detach``): who writes to it is the feed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.transports.writer import HIGH_BYTES, LOW_BYTES, nothing

if TYPE_CHECKING:
    from gateway.server.protocols import HttpProtocol

CLOSE_SECONDS: Final = 10.0  # for the last bytes to be taken
LINGER_SECONDS: Final = 1.0  # for an answer to reach a client that still sends: a socket closed with bytes unread is reset

_BYTES_ACKED: Final = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1


class TransportWriter(asyncio.Protocol):
    """A writer straight to an asyncio transport, and the protocol of that transport from some moment on.

    Attributes:
        gone: whether the client is, or is being sent away
    """

    __slots__ = ("_cut", "gone", "on_full", "on_gone", "on_room", "transport", "write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.write: Callable[[bytes], object] = transport.write
        self.on_full: Callable[[], object] = nothing
        self.on_room: Callable[[], object] = nothing
        self.on_gone: Callable[[], object] = nothing
        self.gone = False
        self._cut: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=HIGH_BYTES, low=LOW_BYTES)

    def buffered(self) -> int:
        return self.transport.get_write_buffer_size()

    def taken(self) -> int:
        sock = self.transport.get_extra_info("socket")
        if sys.platform == "linux" and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
        # Elsewhere the buffer says it, as long as nothing is added: true of a client that is full, and only those stay.
        return -self.buffered()

    def abort(self) -> None:
        self.transport.abort()

    def leave(self) -> None:
        """Nothing may be written from now on."""
        if self.gone:
            return
        self.gone = True
        self.on_gone()
        self.on_full = self.on_room = self.on_gone = nothing  # whoever is behind them can be freed
        if self.transport.get_write_buffer_size():
            # A transport is not closed before its bytes are taken, and nobody watches over this one any more.
            self._cut = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        self.on_full()

    def resume_writing(self) -> None:
        self.on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        if self._cut is not None:
            self._cut.cancel()


class StreamWriter(TransportWriter):
    """The writer of one response in chunks, of use once its head was sent, or taken.

    The transport's protocol stays the HTTP one, and passes on what this one must know: for another one uvloop stops reading and
    starts again, which asks the kernel twice.
    """

    __slots__ = ("_http",)

    def __init__(self, http: HttpProtocol) -> None:
        super().__init__(http.transport)
        self._http: HttpProtocol | None = http

    def take_head(self) -> bytes:
        """The head of the response that was started, to be written first; empty if it was sent, or is on its way to here."""
        return b"" if self._http is None else self._http.take_head()

    def detach(self) -> bool:
        """Let the stream outlive the application's call; ``False`` where the client is gone, or other requests wait behind it."""
        http = self._http
        if http is None or not http.carry():
            return False
        self._http = None
        return True

    def end(self) -> None:
        """Send the last chunk and close."""
        if not self.gone:
            self.write(b"0\r\n\r\n")
            self.leave()
            self.transport.close()
