"""SSE: event streams, ``GET /sse`` (WHATWG HTML, section 9.2).

The retry line and the heartbeat are single lines, not blocks with a blank line after them, because some parsers (httpx-sse) take each
blank line for an event.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from gateway.core.grant import Grant
from gateway.core.wire import BLOCK, CHUNK, http_chunk
from gateway.errors import OVERLOADED, RESTART
from gateway.tasks import finish
from gateway.transports.answers import ALWAYS, answer, check_method
from gateway.transports.follower import Follower
from gateway.transports.request import check_readable, header, parse_request
from gateway.transports.room import address_of
from gateway.transports.services import Services
from gateway.transports.writer import EXTENSION, DirectStream, Message, Receive, Send, SendWriter, until_gone

CONTENT_TYPE: Final = b"text/event-stream"
HEADERS: Final = [
    (b"content-type", CONTENT_TYPE),
    (b"x-accel-buffering", b"no"),  # otherwise nginx holds events back until its buffer is full
    *ALWAYS,
]
# After how many milliseconds to reconnect, from and to: after a break, when all clients may come back at once, and after a goodbye.
RETRY_MS: Final = (1_000, 3_000)
RETRY_AFTER_MS: Final = {RESTART: (100, 1_000), OVERLOADED: (3_000, 8_000)}


def retry_line(least: int, most: int) -> bytes:
    """Tells a client to reconnect after a random number of milliseconds in this range."""
    return b"retry: %d\n" % (least + int(random.random() * (most - least)))  # saves three calls of randint for each client


def opening(scope: Mapping[str, Any]) -> bytes:
    """What a stream begins with: the retry line and, for WebKit, an event that no page listens for.

    When a connection breaks in the middle of an event, WebKit (Safari, and every browser on iOS) keeps the part that it has, and puts it
    before the first event of the next connection, which is then lost (``EventSource::didFail`` in its source clears nothing). So let
    there be an event for that purpose, whose id is the one the client has come with.
    """
    retry = retry_line(*RETRY_MS)
    engine = header(scope, b"user-agent") or ""
    if "AppleWebKit/" not in engine or "Chrome/" in engine:
        return retry
    return b"%bid: %b\nevent: discard\ndata: {}\n\n" % (retry, (header(scope, b"last-event-id") or "").encode())


def is_event_source(scope: Mapping[str, Any]) -> bool:
    """Whether an EventSource asks: in every browser it says that it accepts this type (WHATWG HTML, section 9.2.2); others hardly do."""
    return CONTENT_TYPE.decode() in (header(scope, b"accept") or "")


async def _after_detach(message: Message) -> None:
    """Takes the place of ASGI's send once the application's call is over."""


class Stream(Follower):
    """One open event stream."""

    __slots__ = ()
    transport = "sse"

    def detach(self) -> bool:
        if isinstance(self.writer, SendWriter) or not cast("DirectStream", self.writer).detach():
            return False
        self._send = _after_detach
        return True

    async def carry(self, receive: Receive) -> None:
        if not isinstance(self.writer, SendWriter):
            await until_gone(receive)
            return
        tasks = [asyncio.ensure_future(work) for work in (self.writer.run(), self.writer.aborted(), until_gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await finish(tasks)

    def write(self, data: bytes) -> None:
        """Write lines that are neither an event nor a notice."""
        self.subscription.greet()
        self.writer.write(http_chunk(data) if self.subscription.wire is CHUNK else data)

    def beat(self) -> None:
        self.write(b":\n")

    async def goodbye(self, code: int, reason: str) -> None:
        self._services.feed.leave(self.subscription)
        if code in RETRY_AFTER_MS:
            self.write(retry_line(*RETRY_AFTER_MS[code]))
        self.subscription.notice("bye", {"code": code, "reason": reason})
        if isinstance(self.writer, SendWriter):
            await self.writer.flushed()
        if self._send is _after_detach:
            cast("DirectStream", self.writer).end()
        else:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class SseEndpoint:
    """Opens event streams."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "GET")
        services = self._services
        began = time.perf_counter()
        address = address_of(scope)
        services.check_room(address, is_event_source=services.draining and is_event_source(scope))
        request = parse_request(scope, services.max_channels, required=True)
        grant = await services.gate.authenticate(scope, request.channels)
        check_readable(grant, request.channels)
        if request.until_final and request.resumed and await services.feed.is_over(request.channels):
            # Only this answer stops an EventSource from reconnecting.
            await answer(send, 204, b"", b"")
            return
        services.connections.room.check(address, grant.subject)
        stream = await self._begin(scope, send, grant, until_final=request.until_final)
        if not stream.open(address, request.channels, began):
            try:
                await stream.carry(receive)
            finally:
                stream.leave()

    async def _begin(self, scope: Mapping[str, Any], send: Send, grant: Grant, *, until_final: bool) -> Stream:
        """Start the response."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        direct: DirectStream | None = scope.get("extensions", {}).get(EXTENSION)
        writer = direct or SendWriter(send, _body_message, join=True)
        wire = BLOCK if direct is None else CHUNK
        begin = opening(scope)
        greeting = b""
        # During a drain nothing is held back: while Redis is away the server's end may come before the first events.
        if direct is not None and not self._services.draining and (head := direct.take_head()):
            greeting = head + http_chunk(begin)  # both leave with the first events, in one write
        else:
            await send(_body_message(begin))
        return Stream(self._services, grant, writer, send, wire, until_final=until_final, greeting=greeting)


def _body_message(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
