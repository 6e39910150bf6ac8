"""Exchange: one HTTP request and its response, as an ASGI application sees them.

It replaces uvicorn's ``RequestResponseCycle``, whose flow control and events take 35 us for each event stream, which needs none of them.
Here everything is made only when it is needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gateway.core.wire import http_chunk
from gateway.server.responses import DefaultFields, response_head
from gateway.transports.writer import Message

if TYPE_CHECKING:
    from gateway.server.protocols import HttpProtocol

HIGH_BODY_BYTES: Final = 65_536  # of a body that the application has not asked for yet; with more, reading from the client pauses

logger = logging.getLogger("gateway.edge")


class Exchange:
    """One request and its response.

    Attributes:
        scope: of ASGI
        keep_alive: whether the connection may serve another request after this one
        started, complete: whether a part of the response was sent, and whether all of it was
        ended: whether nobody wants the rest of it, because the client is gone, or because a writer goes on without the application
    """

    __slots__ = (
        "_bodiless", "_body", "_chunked", "_expects_continue", "_head", "_http", "_left", "_more",
        "_receivable", "_waiter", "complete", "ended", "keep_alive", "scope", "started",
    )  # fmt: skip

    def __init__(self, http: HttpProtocol, scope: Message, *, keep_alive: bool, has_body: bool, expects_continue: bool) -> None:
        self._http = http
        self.scope = scope
        self.keep_alive = keep_alive
        self.started = self.complete = self.ended = False
        # The request
        self._body = b""  # the part of it that has come and was not received yet
        self._more = has_body
        self._expects_continue = expects_continue  # the client waits for "100 Continue" before it sends its body (RFC 9110, section 10.1.1)
        self._receivable = not has_body  # whether there is something for ``receive`` to return
        self._waiter: asyncio.Future[None] | None = None  # of ``receive``
        # The response
        # Its head is held back until the first part of the body (as ASGI asks for), which makes one write of the two and lets an
        # application that fails before that be answered with an error.
        self._head = b""
        self._chunked = False
        self._bodiless = False  # whether the response has no body, whatever the application sends
        self._left: int | None = None  # bytes of the body that are still to come, if its length is known

    async def run(self, app: Callable[..., Any]) -> None:
        """Call the application, and answer for it if it fails."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            logger.exception("a request failed")
        else:
            if self.complete or self.ended:
                return
            logger.error("the application has returned without completing its answer")
        if self.started:
            self._http.transport.close()
        else:
            self._head = b""
            await self._fail()

    async def _fail(self) -> None:
        body = b"Internal Server Error"
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": fields})
        await self.send({"type": "http.response.body", "body": body})

    def end(self) -> None:
        """Stop: nobody wants the rest of the response."""
        self.ended = True
        self._wake()

    # The request

    def feed_body(self, body: bytes) -> None:
        """Take a part of the request's body."""
        if not self.complete:
            self._body += body
            if len(self._body) > HIGH_BODY_BYTES:
                self._http.pause_reading()
            self._wake()

    def end_body(self) -> None:
        """Take note that the request is complete."""
        self._more = False
        self._wake()

    def _wake(self) -> None:
        self._receivable = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI's receive."""
        http = self._http
        if self._expects_continue and not self.ended and not http.transport.is_closing():
            self._expects_continue = False
            http.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._receivable:
            http.resume_reading()
            self._waiter = http.site.loop.create_future()
            await self._waiter
        if self.ended or self.complete:
            return {"type": "http.disconnect"}
        self._receivable = False
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": self._more}

    # The response

    async def send(self, message: Message) -> None:
        """ASGI's send.

        Raises:
            RuntimeError, ValueError: if the message is not allowed at this point, or holds something that cannot be sent.
        """
        if self._http.drained is not None:
            await asyncio.wait([self._http.drained])
        if self.ended:
            return
        kind = message["type"]
        begun = self.started or self._head
        if kind == "http.response.start" and not begun:
            self._start(message)
        elif kind == "http.response.body" and begun and not self.complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"ASGI message {kind!r} has no place here")

    def _start(self, message: Message) -> None:
        status = message["status"]
        head = response_head(status, tuple(map(tuple, message.get("headers", ()))))
        if self._expects_continue and self._more:
            # It was not told to continue. Some clients send their next request then and some the body, and the one must not be taken for
            # the other (RFC 9110, section 10.1.1).
            self.keep_alive = False
        self._expects_continue = False
        self._bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        self._left = head.length
        end_known = head.length is not None or self._bodiless
        self._chunked = not end_known and self.scope["http_version"] == "1.1"
        self.keep_alive &= (end_known or self._chunked) and not head.closes  # otherwise the body ends with the connection
        self._head = b"%b%b%b%b%b\r\n" % (
            head.status_line,
            DefaultFields.lines(self._http.site.state.default_headers),
            head.lines,
            b"" if self.keep_alive or head.closes else b"connection: close\r\n",
            b"transfer-encoding: chunked\r\n" if self._chunked else b"",
        )

    def take_head(self) -> bytes:
        """Give the head to a writer that writes the body past this; empty if there is none, or it was sent already."""
        head, self._head = self._head, b""
        self.started |= bool(head)
        return head

    def _write(self, body: bytes, *, more: bool) -> None:
        if self._bodiless:
            body = b""
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is longer or shorter than its content-length")
        elif self._chunked:
            body = (http_chunk(body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if self._head or body:
            self.started = True
            self._http.transport.write(self._head + body)
            self._head = b""
        if not more:
            self.complete = True
            self._wake()
            self._http.answered(self)
