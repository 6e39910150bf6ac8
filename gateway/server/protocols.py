"""uvicorn's protocols, with a writer for bytes that are ready for the socket, and with limits on what a stranger may do.

uvicorn builds a frame or chunk for each client and awaits; the same bytes written to the transport cost a third. The writer
goes into ``scope["extensions"]``, where the transports look for it.

uvicorn waits for a request's head for ever, and lets it grow. Here each head, body and frame has a deadline and a bound; what
they must be like stands in ``heads`` and ``frames``. No documented extension point: tests/server holds what is relied upon, and
pyproject pins uvicorn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import Protocol

from gateway import metrics
from gateway.errors import BadRequest, GatewayError, HeadTooLarge, RequestTimeout, Unavailable, UriTooLong
from gateway.server.descriptors import most_sockets
from gateway.server.frames import FrameCounter, Violation
from gateway.server.heads import MAX_HEAD_BYTES, MAX_URI_BYTES, Head, answer, check_head
from gateway.transports.lines import about
from gateway.transports.writer import EXTENSION, HIGH_BYTES, LOW_BYTES

HEAD_SECONDS: Final = 10.0  # for the first byte and for a whole head; a phone far from its mast takes 3
BODY_SECONDS: Final = 30.0  # for 8 MiB of events from a backend
LINGER_SECONDS: Final = 1.0  # for an answer to reach a client that still sends: a socket closed with bytes unread is reset
CLOSE_SECONDS: Final = 10.0  # for the last bytes to be taken
MAX_PIPELINED: Final = 8  # no browser sends requests ahead; 256 KiB of them, one read, would be 9,000

INVALID_DATA: Final = 1007

logger = logging.getLogger("gateway.edge")

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
    """uvicorn's WebSocket protocol with a writer and with frames counted."""

    writer: TransportWriter | None = None
    _counter: FrameCounter
    _cut: asyncio.TimerHandle | None = None
    _failed = False

    def begin(self, request: Request) -> None:
        """Take a head that is parsed and checked: websockets would parse it again, within narrower limits, and not always answer."""
        self.conn.parser = Protocol.parse(self.conn)
        next(self.conn.parser)
        self._counter = FrameCounter(self.loop.time())
        self.handle_connect(request)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.writer = TransportWriter(self.transport)
            cast("dict[str, Any]", self.scope["extensions"])[EXTENSION] = self.writer

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        if not self.handshake_complete:
            self.transport.abort()  # a client waits for the answer (RFC 6455, section 4.1)
            return
        try:
            self._counter.feed(data, self.loop.time())
        except Violation as violation:
            self._fail(violation.code, violation.reason)
        else:
            super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(INVALID_DATA, "text that is not UTF-8")  # uvicorn would log a traceback
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self.transport.get_write_buffer_size() > HIGH_BYTES:
            self.conn.data_to_send()  # thrown away: who takes no bytes needs no pong
        else:
            super().handle_ping()

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_close(self, event: Frame) -> None:
        self._gone()  # nothing may follow our close frame
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """End with the code of ``conn.fail``. The socket stays a moment: closed with bytes unread it is reset, and the code lost."""
        self._gone()
        self._failed = self.close_sent = True
        closed = self.conn.close_sent
        if closed is not None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def shutdown(self) -> None:
        self._gone()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()

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
            if self.transport.get_write_buffer_size():
                # A transport is not closed before its bytes are taken, and nobody watches over this one any more.
                self._cut = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with deadlines and bounds, and a writer for each request, of use once its response has begun in chunks."""

    writer: TransportWriter | None = None
    url = b""
    _head = Head(upgrade=False, has_body=False)
    _deadline: asyncio.TimerHandle | None = None
    _unfinished = 0  # bytes since the parser last brought something whole
    _refused = False
    _answering: RequestResponseCycle | None = None  # uvicorn's ``cycle`` is the newest, of those that were sent ahead too

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most_sockets():
            # One more accepted for each one refused would use up the last descriptors, which Redis needs too.
            self._write(Unavailable("as many sockets are open as may be"))
            transport.close()
        else:
            self._expect("head", HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._deadline is None and not self._busy():
            self._expect("head", HEAD_SECONDS)
        self._unfinished += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            if self._head.upgrade:
                self._upgrade(early=end.args[0] < len(data))
        except httptools.HttpParserError as error:
            self._refuse(_reason(error))
        else:
            if self._unfinished > MAX_HEAD_BYTES:
                long = len(self.url) > MAX_URI_BYTES
                self._refuse((UriTooLong if long else HeadTooLarge)(f"{self._unfinished} bytes without an end to the head"))

    def on_headers_complete(self) -> None:
        self._head = check_head(self.parser.get_method(), self.parser.get_http_version(), self.url, self.headers)
        if self._busy() and (self._head.upgrade or len(self.pipeline) >= MAX_PIPELINED):
            raise BadRequest(f"an upgrade, or more than {MAX_PIPELINED} requests, before the answer to the first")
        self._unfinished = 0
        self._relax()
        if self._head.has_body:
            self._expect("body", BODY_SECONDS)
        super().on_headers_complete()
        if not self._head.upgrade:
            self.headers = []  # for trailers: the application has the others, and must not find new ones among them

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._relax()
        super().on_message_complete()
        if not self._busy() and not self._head.upgrade and not self.transport.is_closing():
            # The body of a request that was answered before: its bytes have ended uvicorn's keep-alive timer.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self._answering is not None and not self._answering.response_complete

    def _should_upgrade(self) -> bool:
        return self._head.upgrade

    def _upgrade(self, *, early: bool) -> None:
        if early:
            self._refuse(BadRequest("bytes behind an upgrade's head: a client waits for the answer (RFC 6455, section 4.1)"))
            return
        self.connections.discard(self)
        protocol = WebSocketProtocol(self.config, self.server_state, self.app_state)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers])
        protocol.begin(Request(self.url.decode("ascii"), headers))

    def _expect(self, what: str, seconds: float) -> None:
        self._relax()
        self._deadline = self.loop.call_later(seconds, self._late, what, seconds)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, what: str, seconds: float) -> None:
        if what == "head" and not self._unfinished:
            self.transport.close()  # a browser connects ahead of need; what it has not asked is not answered
        else:
            self._refuse(RequestTimeout(f"the request's {what} did not come within {seconds:.0f} s"))

    def _refuse(self, error: GatewayError) -> None:
        """Answer what is no request, and close."""
        self._refused = True
        self._relax()
        if self._busy() and self._answering is not None:
            if self._answering.response_started:
                self.transport.abort()  # in the midst of an answer there is no place for another
                return
            self._disconnect(self._answering)
        self._write(error)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _write(self, error: GatewayError) -> None:
        metrics.refused(error)
        peer = self.client or ("",)
        logger.info("refused with %d: %s", error.status, error.detail, extra=about(address=peer[0]) | {"kind": str(error.status)})
        self.transport.write(answer(error, self.server_state.default_headers))

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True
        cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] == "1.1" and cycle.scope["method"] == "GET":
            self.writer = TransportWriter(self.transport)
            cast("dict[str, Any]", cycle.scope).setdefault("extensions", {})[EXTENSION] = self.writer
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        if self._answering is not None:
            self._disconnect(self._answering)  # uvicorn tells the newest only, and a stream before it would stay for ever
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


def _reason(error: httptools.HttpParserError) -> GatewayError:
    cause = error.__context__
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(cause, httptools.HttpParserError | UnicodeError):
        logger.error("a request's head could not be taken", exc_info=cause)
    return BadRequest(f"no HTTP request: {error}")
