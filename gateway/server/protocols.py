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
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from gateway import metrics
from gateway.errors import BadRequest, GatewayError, HeadTooLarge, RequestTimeout, Unavailable, UriTooLong
from gateway.server.descriptors import most_sockets
from gateway.server.heads import MAX_HEAD_BYTES, MAX_URI_BYTES, Head, answer, check_head
from gateway.server.sockets import WebSocketProtocol
from gateway.server.streams import LINGER_SECONDS, StreamProtocol
from gateway.transports.lines import about
from gateway.transports.writer import EXTENSION

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

HEAD_SECONDS: Final = 10.0  # for the first byte and for a whole head; a phone far from its mast takes 3
BODY_SECONDS: Final = 30.0  # for 8 MiB of events from a backend
MAX_PIPELINED: Final = 8  # no browser sends requests ahead; 256 KiB of them, one read, would be 9,000

_OWN: Final = frozenset(("client", "flow", "parser", "pipeline", "transport"))  # each connection has others

logger = logging.getLogger("gateway.edge")


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with deadlines and bounds, and a writer for each request, of use once its response has begun in chunks."""

    flow: FlowControl | None = None  # type: ignore[assignment]  # made for a plain request only
    writer: StreamProtocol | None = None
    url = b""
    _head = Head(upgrade=False, has_body=False)
    _deadline: asyncio.TimerHandle | None = None
    _unfinished = 0  # bytes since the parser last brought something whole
    _refused = False
    _answering: RequestResponseCycle | None = None  # uvicorn's ``cycle`` is the newest, of those that were sent ahead too

    _first: ClassVar[tuple[ServerState, dict[str, Any]] | None] = None  # what a server's first connection has found out

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        first = HttpProtocol._first
        if first is None or first[0] is not server_state:
            super().__init__(config, server_state, app_state, _loop)
            return
        # uvicorn looks up loggers, addresses and settings for each connection: a tenth of a handshake, and always the same.
        vars(self).update(first[1])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.pipeline = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.scheme is None:
            super().connection_made(transport)
            HttpProtocol._first = self.server_state, {name: value for name, value in vars(self).items() if name not in _OWN}
        else:
            self.transport = transport
            self.connections.add(self)
            self.client = get_remote_addr(transport)
        if len(self.connections) > most_sockets():
            # One more accepted for each one refused would use up the last descriptors, which Redis needs too.
            self._write(Unavailable("as many sockets are open as may be"))
            transport.close()
        else:
            self._expect("head", HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self.timeout_keep_alive_task is not None:
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
        if self._head.upgrade:
            return
        if self._head.has_body:
            self._expect("body", BODY_SECONDS)
        if self.flow is None:
            self.flow = FlowControl(self.transport)
        super().on_headers_complete()
        self.headers = []  # for trailers: the application has the others, and must not find new ones among them

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._head.upgrade:
            return
        self._relax()
        super().on_message_complete()
        if not self._busy() and not self.transport.is_closing():
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
        protocol = WebSocketProtocol(self)
        key, offered = b"", []
        for name, value in self.headers:
            if name == b"sec-websocket-key":
                key = value
            elif name == b"sec-websocket-protocol":
                offered += [text.strip() for text in value.decode("latin-1").split(",")]
        path, _, query = self.url.partition(b"?")
        scope = cast("dict[str, Any]", self.scope)
        scope |= {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "scheme": "wss" if self.scheme == "https" else "ws",
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "subprotocols": offered,
            "extensions": {"websocket.http.response": {}, EXTENSION: protocol},
        }
        self.transport.set_protocol(protocol)
        self._forget()
        protocol.begin(self.app, scope, key)

    def _forget(self) -> None:
        """Another protocol has the transport. Nothing may be left that would have to wait for the garbage collector."""
        self.connections.discard(self)
        self.parser = self.scope = self.cycle = self._answering = self.writer = None  # type: ignore[assignment]

    def hand_over(self) -> bool:
        """Give the transport to the writer of the response that is under way; ``False`` if there is more to do here than to carry it."""
        if self._answering is None or self.pipeline or self._deadline is not None or self.transport.is_closing():
            return False
        self._answering.disconnected = True  # for uvicorn its application has nothing more to say
        self._forget()
        return True

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
            self.writer = StreamProtocol(self)
            cast("dict[str, Any]", cycle.scope).setdefault("extensions", {})[EXTENSION] = self.writer
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        if self._answering is not None:
            self._disconnect(self._answering)  # uvicorn tells the newest only, and a stream before it would stay for ever
        if self.writer is not None:
            self.writer.leave()
            self.writer = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        if self.flow is not None:
            super().pause_writing()
        if self.writer is not None:
            self.writer.on_full()

    def resume_writing(self) -> None:
        if self.flow is not None:
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
