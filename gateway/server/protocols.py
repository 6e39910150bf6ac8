"""uvicorn's protocols, with a writer for bytes that are ready for the socket.

uvicorn builds a frame or chunk for each client and awaits; the same bytes written to the transport cost a third. The writer
goes into ``scope["extensions"]``, where the transports look for it. No documented extension point: tests/server holds what
is relied upon, and pyproject pins uvicorn.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from gateway.transports.writer import EXTENSION, HIGH_BYTES, LOW_BYTES

_BYTES_ACKED: Final = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1


def _nothing() -> None:
    pass


class TransportWriter:
    """A writer straight to an asyncio transport."""

    __slots__ = ("_transport", "on_full", "on_gone", "on_room", "write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.write: Callable[[bytes], object] = transport.write
        self.on_full: Callable[[], object] = _nothing
        self.on_room: Callable[[], object] = _nothing
        self.on_gone: Callable[[], object] = _nothing
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_BYTES, low=LOW_BYTES)

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def taken(self) -> int:
        sock = self._transport.get_extra_info("socket")
        if sys.platform == "linux" and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
        # Elsewhere the buffer says it, as long as nothing is added: true of a client that is full, and only those stay.
        return -self.buffered()

    def abort(self) -> None:
        self._transport.abort()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with a writer."""

    writer: TransportWriter | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.writer = TransportWriter(self.transport)
            cast("dict[str, Any]", self.scope["extensions"])[EXTENSION] = self.writer

    def handle_close(self, event: Frame) -> None:
        self._gone()  # nothing may follow our close frame
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        self._gone()
        super().handle_parser_exception()

    def shutdown(self) -> None:
        self._gone()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.writer is not None:
            self.writer.on_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writer is not None:
            self.writer.on_room()

    def _gone(self) -> None:
        if self.writer is not None:
            self.writer.on_gone()
            self.writer = None


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a writer for each request, of use once its response has begun in chunks."""

    writer: TransportWriter | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] == "1.1" and cycle.scope["method"] == "GET":
            self.writer = TransportWriter(self.transport)
            cast("dict[str, Any]", cycle.scope).setdefault("extensions", {})[EXTENSION] = self.writer
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.writer is not None:
            self.writer.on_gone()
            self.writer = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.writer is not None:
            self.writer.on_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writer is not None:
            self.writer.on_room()
