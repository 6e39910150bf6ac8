"""HTTP/1.1 connections: a protocol for uvicorn's server, with deadlines, bounds, and direct writes of encoded bytes.

uvicorn's own protocol waits for a request's head for ever, however large it grows. Here every head, body and frame has a deadline and a
bound (server/heads.py and server/frames.py check what they must be like). It is also cheaper: uvicorn's spends 45 us on each stream,
much of it on things that are the same for all connections (loadtest/experiments/handshake-cost). The parser is the same: llhttp,
through httptools.

The transports find the writer for direct writes (server/streams.py, server/sockets.py) in ``scope["extensions"]``.

A connection is in one of these states, or in two: a body is taken while its request is answered or waits for its turn.

    state                shown by            deadline   what leads out of it
    waiting for a head   none of the below   head, idle a head: answering, and taking a body if there is one; that of a WebSocket: handed
                                                        over; too late: closed if no byte of it has come, otherwise refused
    taking a body        _receiving          body       its end; late or broken: refused
    answering            _busy()             none       answered(): waiting for a head, or closed, as refused if a body still comes;
                                                        hand_over(): handed over
      others wait        ... and _ahead      none       answered(): answering the first of them; until then reading pauses
    refused              _refused            lingering  the deadline: aborted. The error is sent after the answers to earlier requests (and
                                                        is _refusal so long); if one of them has begun: aborted at once
    handed over          _parser is None     none       nothing here: a StreamWriter has the rest of the answer, and bytes from the client
                                                        abort; or a WebSocketProtocol has the transport, and this object is empty
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httptools

from gateway import metrics
from gateway.errors import BadRequest, GatewayError, HeadTooLarge, RequestTimeout, Unavailable, UriTooLong
from gateway.server.connection import Connection, client_address
from gateway.server.deadlines import Deadlines
from gateway.server.descriptors import max_sockets
from gateway.server.exchange import Exchange
from gateway.server.heads import MAX_HEAD_BYTES, MAX_URI_BYTES, PLAIN, Head, check_head, other_protocol, without_upgrade
from gateway.server.responses import problem_response
from gateway.server.site import Site
from gateway.server.sockets import WebSocketProtocol
from gateway.server.streams import StreamWriter
from gateway.transports.log_lines import about
from gateway.transports.writer import EXTENSION

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

MAX_PIPELINED: Final = 8  # no browser sends requests ahead; 256 KiB of them, one read, would be 9,000

logger = logging.getLogger("gateway.edge")


class HttpProtocol(Connection):
    """One connection, from its first byte until it is closed, or until another protocol takes its transport over."""

    __slots__ = ("_ahead", "_answering", "_head", "_headers", "_parser", "_receiving", "_refusal", "_refused", "_unfinished", "_url")

    _site: ClassVar[Site | None] = None  # that of the newest server

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        site = HttpProtocol._site
        if site is None or site.state is not server_state:
            loop = _loop or asyncio.get_running_loop()
            site = HttpProtocol._site = Site(config, server_state, app_state, loop)
        super().__init__(site)
        self._parser: Any = self._new_parser()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head = PLAIN
        self._receiving: Exchange | None = None  # the one whose body is coming in
        self._answering: Exchange | None = None
        self._ahead: list[Exchange] = []  # pipelined requests, which wait for their turn
        self._unfinished = 0  # bytes since the parser last completed something
        self._refused = False
        self._refusal: GatewayError | None = None  # to be sent once the requests before it are answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        site = self.site
        self.transport = transport
        if site.address is None:
            site.learn_address(transport)
        self.client = client_address(transport.get_extra_info("peername"))
        site.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn only calls its shutdown
        if len(site.state.connections) > max_sockets():
            # Otherwise clients would use up the last descriptors, of which Redis may need some.
            self._write_refusal(Unavailable("as many sockets are open as may be"))
            transport.close()
        else:
            self._set_deadline(site.head)

    # The requests

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._parser is None:
            self.transport.abort()  # another answer cannot be sent in the middle of one
            return
        if self._deadline is self.site.idle:
            self._set_deadline(self.site.head)
        self._unfinished += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            rest = data[end.args[0] :]
        except httptools.HttpParserError as error:
            self._refuse(_reason(error, data))
            return
        else:
            if self._unfinished > MAX_HEAD_BYTES:
                long = len(self._url) > MAX_URI_BYTES
                text = f"{self._unfinished} bytes without an end to the head: at most {MAX_HEAD_BYTES} are allowed"
                self._refuse((UriTooLong if long else HeadTooLarge)(text))
            return
        self._end_of_http(rest)  # outside the try, or an error in there would get the upgrade's exception as its context

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))  # the parser keeps trailing blanks (RFC 9112, section 5.1)

    def on_headers_complete(self) -> None:
        method, version = self._parser.get_method(), self._parser.get_http_version()
        self._head = head = check_head(method, version, self._url, self._headers, upgrading=self._parser.should_upgrade())
        busy = self._busy()
        if busy and (head.key or len(self._ahead) >= MAX_PIPELINED):
            raise BadRequest(f"an upgrade, or more than {MAX_PIPELINED} requests, before the answer to the first")
        self._unfinished = 0
        self._clear_deadline()
        if head.key or head.offers_other:
            return  # the parser will stop with HttpParserUpgrade, and _end_of_http goes on from there
        exchange = self._exchange(head, method, version)
        if busy:
            self.pause_reading()
            self._ahead.append(exchange)
        else:
            self._serve(exchange)

    def _exchange(self, head: Head, method: bytes, version: str) -> Exchange:
        """The request whose head is complete; its body is expected from now on, if it has one."""
        exchange = Exchange(
            self,
            self.site.http_scope(method, version, self._url, self._headers, self.client),
            keep_alive=version == "1.1" and self._parser.should_keep_alive() and not self.site.ending,
            has_body=head.has_body,
            expects_continue=head.expects_continue,
        )
        if head.has_body:
            self._receiving = exchange
            self._set_deadline(self.site.body)
        else:
            self._receiving = None
        self._url, self._headers = b"", []  # new ones, for trailers (which are not passed to the application) and for the next request
        return exchange

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        if self._receiving is not None:
            self._receiving.feed_body(body)

    def on_message_complete(self) -> None:
        if self._receiving is None:
            return
        self._clear_deadline()
        self._receiving.end_body()
        self._receiving = None
        self._headers = []
        if not self._busy():
            self._set_deadline(self.site.lingering if self.site.ending else self.site.idle)

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # As in uvicorn: a request with "Connection: close" is answered even if more bytes come after it.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _end_of_http(self, rest: bytes) -> None:
        """The head asks for an upgrade, after which the parser stops: upgrade to WebSocket, or go on with HTTP.

        Args:
            rest: the bytes after the head
        """
        if not self._head.key:
            # Another protocol is offered, such as h2c, which Java's HttpClient offers with every first request, even with a body. That
            # is declined: the head is parsed again without the offer.
            head = without_upgrade(self._parser.get_method(), self._parser.get_http_version(), self._url, self._headers)
            self._parser = self._new_parser()
            self._url, self._headers = b"", []
            self.data_received(head + rest)
        elif rest:
            self._refuse(BadRequest("bytes after an upgrade's head: a client must wait for the answer (RFC 6455, section 4.1)"))
        else:
            self._upgrade()

    def _upgrade(self) -> None:
        protocol = WebSocketProtocol(self)
        scope = self.site.websocket_scope(self._url, self._headers, self.client)
        scope["extensions"][EXTENSION] = protocol
        self.transport.set_protocol(protocol)
        self._release()
        protocol.begin(self.site.app, scope, self._head.key)

    # The answers

    def _busy(self) -> bool:
        return self._answering is not None and not self._answering.complete

    def _serve(self, exchange: Exchange) -> None:
        self._answering = exchange
        scope, site = exchange.scope, self.site
        if scope["method"] == "GET" and scope["http_version"] == "1.1":
            self.writer = StreamWriter(self)
            scope["extensions"][EXTENSION] = self.writer
        task = site.loop.create_task(exchange.run(site.app))
        site.state.tasks.add(task)
        task.add_done_callback(site.state.tasks.discard)

    def answered(self, exchange: Exchange) -> None:
        """An answer is complete: go on with the next request, or close."""
        if not exchange.keep_alive:
            self._close_after_body()
        elif not self.transport.is_closing():
            self.resume_reading()
            if self._ahead:
                self._serve(self._ahead.pop(0))
            elif self._refusal is not None:
                self._send_refusal(self._refusal)
            elif self._deadline is None:
                self._set_deadline(self.site.head if self._url else self.site.idle)  # the head of the next request may have begun

    def _close_after_body(self) -> None:
        if self._receiving is None or self.transport.is_closing():
            self.transport.close()
        else:  # answered before its body has come, such as with 401 or 413
            self._refused = True
            self._receiving = None
            self._close_gently()

    def _close_gently(self) -> None:
        """Close towards a client that may still send: closing a socket with unread bytes resets it, and the answer would be lost."""
        self.resume_reading()
        self.transport.write_eof()
        self._set_deadline(self.site.lingering)

    def take_head(self) -> bytes:
        """The head of the response that is under way, if it was not sent yet."""
        return b"" if self._answering is None else self._answering.take_head()

    def hand_over(self) -> bool:
        """Leave the response that is under way to its writer, and free all that is not needed for it.

        Returns:
            ``False`` if that is not possible, because something else is still to be done on this connection
        """
        if self._answering is None or self._ahead or self._deadline is not None or self.transport.is_closing():
            return False
        if self._refused:
            self.transport.abort()  # another answer cannot be sent in the middle of one
            return False
        self._answering.end()
        self._parser = self._answering = self._receiving = self.client = None
        return True

    def _release(self) -> None:
        """Free everything. No reference may be left that would keep these objects until the garbage collector comes."""
        self.site.state.connections.discard(self)
        self._parser = self._answering = self._receiving = self.writer = None
        self._ahead.clear()

    # Refusals

    def _refuse(self, error: GatewayError) -> None:
        """Answer an invalid request with an error, after the answers to those before it (RFC 9112, section 9.3.2), and close."""
        self._refused = True
        self._clear_deadline()
        flooded = len(self._ahead) >= MAX_PIPELINED
        broken, self._receiving = self._receiving, None  # the request whose body did not come, or was not valid
        if broken in self._ahead:
            self._ahead.remove(broken)
        if self._answering is None or self._answering.complete:
            self._send_refusal(error)
        elif self._answering.started:
            self.transport.abort()  # another answer cannot be sent in the middle of one
        elif flooded or self._answering is broken:
            self._answering.end()  # there will be no answer to it: its body is broken, or more requests wait than may
            self._send_refusal(error)
        else:
            self._refusal = error  # answered() sends it

    def _send_refusal(self, error: GatewayError) -> None:
        self._refusal = None
        self._write_refusal(error)
        self._close_gently()

    def _write_refusal(self, error: GatewayError) -> None:
        metrics.refused(error)
        peer = self.client or ("",)
        logger.info("refused with %d: %s", error.status, error.detail, extra=about(address=peer[0]) | {"kind": str(error.status)})
        # Until an address comes, the parser's method is still that of the request before.
        is_head = bool(self._url) and self._parser.get_method() == b"HEAD"
        self.transport.write(problem_response(error, self.site.state.default_headers, with_body=not is_head))

    # The deadlines

    def on_late(self, deadline: Deadlines[Connection]) -> None:
        self._deadline = None
        if deadline is self.site.lingering:
            self.transport.abort()
        elif deadline is self.site.idle or (deadline is self.site.head and not (self._unfinished or self._url)):
            self.transport.close()  # browsers connect before they need to: nothing was asked, so nothing is answered
        else:
            what = "head" if deadline is self.site.head else "body"
            self._refuse(RequestTimeout(f"the request's {what} did not come within {deadline.seconds:.0f} s"))

    # Called by the transport and the server

    def eof_received(self) -> bool:
        """The client sends nothing more. It may still wait for an answer, so one that comes soon is sent."""
        refused = self._refused and self._refusal is None
        if refused or self._receiving is not None or not self._busy():
            return False
        self._answer_and_close()
        self._set_deadline(self.site.lingering)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self._set_drained()
        if self._answering is not None:
            self._answering.end()
        if self.writer is not None:
            self.writer.connection_lost(exc)
        self._release()

    def shutdown(self) -> None:
        """Close once everything is answered, because uvicorn stops."""
        self.site.ending = True
        if self._parser is None and self.writer is not None:
            self.writer.end()
        elif self._busy():
            self._answer_and_close()
        elif not self.transport.is_closing():
            # The next request may be on its way: a proxy's POST that was reset would be answered with 502, and not sent again.
            self._set_deadline(self.site.lingering)

    def _answer_and_close(self) -> None:
        newest = self._ahead[-1] if self._ahead else self._answering
        assert newest is not None
        newest.keep_alive = False


def _reason(error: httptools.HttpParserError, data: bytes) -> GatewayError:
    """The error to answer with: one that a callback has raised, or that the parser has found in these bytes."""
    cause = error.__context__
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError):
        logger.error("a request's head could not be taken", exc_info=cause)
    if (other := other_protocol(data)) is not None:
        return BadRequest(f"not an HTTP request but {other}: the proxy in front must speak plain HTTP/1.1 to the gateway")
    return BadRequest(f"not an HTTP request: {error}")
