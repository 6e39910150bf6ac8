"""SSE: ``GET /sse`` (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from gateway import metrics
from gateway.core.event import BLOCK, CHUNK, Wire, http_chunk
from gateway.core.grant import Grant
from gateway.errors import OVERLOADED, RESTART, BadRequest
from gateway.transports.answers import ALWAYS, answer, check_method
from gateway.transports.connections import address_of
from gateway.transports.follower import Follower
from gateway.transports.request import check_readable, wanted
from gateway.transports.services import Services
from gateway.transports.writer import EXTENSION, DirectStream, Receive, Send, SendWriter, Writer

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back until its buffer is full
    *ALWAYS,
]
RETRY_MS: Final = (1_000, 3_000)  # for a connection that breaks: all of them may have
RETRY_AFTER_MS: Final = {RESTART: (100, 1_000), OVERLOADED: (3_000, 8_000)}  # for one that was sent away, in its turn or for good reason

# The retry line and the heartbeat are lines, not blocks: some parsers (httpx-sse) make an event of each blank line.


class Stream(Follower):
    """One open event stream."""

    __slots__ = ("_send",)
    transport = "sse"

    def __init__(self, services: Services, grant: Grant, writer: Writer, send: Send, wire: Wire, *, until_final: bool) -> None:
        super().__init__(services, grant, writer, wire, until_final=until_final)
        self._send: Send | None = send

    def greet(self) -> None:
        self.write(b"retry: %d\n" % random.randint(*RETRY_MS))

    def stay(self) -> bool:
        """Go on without a task; ``False`` where the server cannot do that."""
        if self.subscription.wire is not CHUNK or not cast("DirectStream", self.writer).stay():
            return False
        self._send = None
        return True

    def write(self, data: bytes) -> None:
        """Write bytes that are no event."""
        self.writer.write(http_chunk(data) if self.subscription.wire is CHUNK else data)

    def beat(self) -> None:
        self.write(b":\n")

    async def goodbye(self, code: int, reason: str) -> None:
        self._services.feed.leave(self.subscription)
        if code in RETRY_AFTER_MS:
            self.write(b"retry: %d\n" % random.randint(*RETRY_AFTER_MS[code]))
        self.subscription.notice("bye", {"code": code, "reason": reason})
        if isinstance(self.writer, SendWriter):
            await self.writer.flushed()
        if self._send is None:
            cast("DirectStream", self.writer).end()
        else:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class SseEndpoint:
    """Opens event streams."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if not await check_method(scope, send, "GET"):
            return
        services = self._services
        started = time.perf_counter()
        address = address_of(scope)
        services.check_room(address)
        request = wanted(scope, services.max_channels)
        if not request.channels:
            raise BadRequest("no channel: channel=<name> is expected, once for each")
        grant = await services.gate.authenticate(scope, request.channels)
        check_readable(grant, request.channels)
        if request.until_final and request.resumed and await services.feed.is_over(request.channels):
            # The one answer that stops an EventSource from coming back.
            await answer(send, 204, b"", b"")
            return
        services.connections.check_room(address, grant.subject)
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        direct: DirectStream | None = scope.get("extensions", {}).get(EXTENSION)
        fallback: SendWriter | None = None
        if direct is not None:
            stream = Stream(services, grant, direct, send, CHUNK, until_final=request.until_final)
        else:
            fallback = SendWriter(send, lambda data: {"type": "http.response.body", "body": data, "more_body": True}, join=True)
            stream = Stream(services, grant, fallback, send, BLOCK, until_final=request.until_final)
        stays = False
        try:
            stream.open(address, request.channels)
            metrics.HANDSHAKE["sse"].observe(time.perf_counter() - started)
            stays = stream.stay()
            if not stays:
                await (_until_gone(receive) if fallback is None else _carry(fallback, receive))
        finally:
            if not stays:
                stream.leave()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _carry(writer: SendWriter, receive: Receive) -> None:
    tasks = [asyncio.ensure_future(work) for work in (writer.run(), writer.aborted(), _until_gone(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
