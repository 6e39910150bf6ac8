"""TransportWriter: writes encoded bytes straight to a transport, for event streams and WebSockets alike.

uvicorn builds a chunk or a frame for each client and awaits each ``send``; writing the encoded bytes to the transport costs a third of
that.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from gateway.transports.writer import HIGH_BYTES, LOW_BYTES, nothing

CLOSE_SECONDS: Final = 10.0  # for the client to take the last bytes
LINGER_SECONDS: Final = 1.0  # for an answer to reach a client that still sends: closing a socket with unread bytes resets it

_BYTES_ACKED: Final = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1
_TCP: Final = (socket.AF_INET, socket.AF_INET6)
_RESET: Final = struct.pack("ii", True, 0)  # struct linger: to close takes no time, so what was not sent is dropped


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
        size = self.transport.get_write_buffer_size()
        if size or sys.platform != "linux" or (sock := self._socket()) is None:
            return size
        return _in_kernel(sock)

    def taken(self) -> int:
        acked = 0
        if (sock := self._linux_tcp()) is not None:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            acked = int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
        # Where that is not known, the size of the buffer shows it, as long as nothing is added to the buffer. Nothing is added for a
        # client that is full, and only such a client can stall.
        return acked or -self.buffered()

    def be_patient(self) -> None:
        # The kernel gives up a client whose window has been too small for the next segment for TCP_USER_TIMEOUT (server/run.py), even
        # if the client takes bytes all the time.
        if (sock := self._linux_tcp()) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    def abort(self) -> None:
        if (sock := self._socket()) is not None:
            with suppress(OSError):  # macOS sets no option of a connection that the client has reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # or the kernel would keep its bytes for minutes
        self.transport.abort()

    def _socket(self) -> Any:
        """The connection's socket; ``None`` if that is being closed."""
        return None if self.transport.is_closing() else self.transport.get_extra_info("socket")

    def _linux_tcp(self) -> Any:
        """The same, if it is TCP on Linux, which tells more of it than other systems do, and takes more options."""
        sock = self._socket()
        return sock if sys.platform == "linux" and sock is not None and sock.family in _TCP else None

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


def _in_kernel(sock: Any) -> int:
    """The bytes that wait in the kernel (tcp(7), SIOCOUTQ); 0 if that is not known: gVisor's kernel does not tell."""
    waiting = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, waiting)
    except OSError:
        return 0
    return int.from_bytes(waiting, sys.byteorder)
