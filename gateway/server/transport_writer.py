"""TransportWriter: writes encoded bytes straight to a transport, for event streams and WebSockets alike.

uvicorn builds a chunk or a frame for each client and awaits each ``send``; writing the encoded bytes to the transport costs a third of
that.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Final

from gateway.transports.writer import HIGH_BYTES, LOW_BYTES, nothing

CLOSE_SECONDS: Final = 10.0  # for the client to take the last bytes
LINGER_SECONDS: Final = 1.0  # for an answer to reach a client that still sends: closing a socket with unread bytes resets it

_BYTES_ACKED: Final = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1


class TransportWriter(asyncio.Protocol):
    """A ``Writer`` that writes straight to an asyncio transport, and can be the protocol of that transport.

    Attributes:
        gone: whether the client is gone, or is being sent away
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
        # On other systems the size of the buffer shows it, as long as nothing is added to the buffer. Nothing is added for a client that
        # is full, and only such a client can stall.
        return -self.buffered()

    def abort(self) -> None:
        self.transport.abort()

    def leave(self) -> None:
        """Take the client for gone: nothing may be written from now on."""
        if self.gone:
            return
        self.gone = True
        self.on_gone()
        self.on_full = self.on_room = self.on_gone = nothing  # so that the objects behind them can be freed
        if self.transport.get_write_buffer_size():
            # A transport closes only once its bytes are taken, and from now on nobody else watches whether they are.
            self._cut = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        self.on_full()

    def resume_writing(self) -> None:
        self.on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        if self._cut is not None:
            self._cut.cancel()
