"""Long polling: ``GET /poll``, for networks in which neither WebSocket nor SSE gets through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway import metrics
from gateway.core.grant import Grant
from gateway.core.page import Since
from gateway.core.subscription import NEWEST, Subscription
from gateway.core.wire import ELEMENT
from gateway.errors import GatewayError, Unavailable
from gateway.transports.answers import answer, check_method
from gateway.transports.request import check_readable, parse_request, wait_seconds
from gateway.transports.room import address_of
from gateway.transports.services import Services
from gateway.transports.writer import HIGH_BYTES, Receive, Send, until_gone

READ_SECONDS: Final = 5.0  # for the first read of the log, however short the wait

_NOTICE: Final = b'{"op":'  # how a notice begins, while an event begins with its type


class Collector:
    """Collects what a subscription writes until there is enough for an answer.

    Attributes:
        grant: of the client
        lost: why the grant holds no longer; ``None`` while it does
        events: their JSON
        gaps: the channels of gap notices
        ready: whether all channels have been read
        done: whether all channels are over, and the client asked to be told
        failed: whether the log could not be read
        released: whether the answer is wanted now
        changed: set with every change of these
    """

    def __init__(self, services: Services, grant: Grant, *, until_final: bool) -> None:
        self.grant = grant
        self.lost: GatewayError | None = None
        self.events: list[bytes] = []
        self.gaps: list[str] = []
        self.ready = False
        self.done = False
        self.failed = False
        self.released = False
        self.changed = asyncio.Event()
        self._size = 0
        self.subscription = Subscription(
            wire=ELEMENT,
            write=self._take,
            on_behind=services.catch_up,
            on_done=self._finish,
            on_failed=self._fail,
            until_final=until_final,
        )

    def _take(self, data: bytes) -> None:
        if data.startswith(_NOTICE):
            notice = msgspec.json.decode(data)
            self.ready |= notice["op"] == "ready"
            if notice["op"] == "gap":
                self.gaps.append(notice["channel"])
        else:
            self.events.append(data)
            self._size += len(data)
            if self._size > HIGH_BYTES and not self.subscription.full:
                self.subscription.pause()
        self.changed.set()

    def _finish(self) -> None:
        self.done = True
        self.changed.set()

    def _fail(self) -> None:
        self.failed = True
        self.changed.set()

    def release(self, code: int, reason: str) -> None:
        """Have the poll answered now with what there is. Takes the arguments of an ``Ending``."""
        self.released = True
        self.changed.set()

    def on_access_lost(self, error: GatewayError) -> None:
        self.lost = error
        self.changed.set()

    @property
    def complete(self) -> bool:
        """Whether it is time to answer. A full collector does not wait for the rest of the log."""
        if self.lost is not None or self.failed or self.done or self.subscription.full:
            return True
        return self.ready and bool(self.events or self.gaps)

    def body(self) -> bytes:
        """The answer's JSON."""
        rest = {"channels": self.subscription.positions(), "gaps": list(dict.fromkeys(self.gaps))}
        if self.done:
            rest["done"] = True  # type: ignore[assignment]
        return b'{"events":[' + b",".join(self.events) + b"]," + msgspec.json.encode(rest)[1:]


class PollEndpoint:
    """Answers polls."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "GET")
        services = self._services
        started = time.perf_counter()
        address = address_of(scope)
        services.check_room(address)
        request = parse_request(scope, services.max_channels, required=True)
        wait = wait_seconds(scope)
        grant = await services.gate.authenticate(scope, request.channels)
        check_readable(grant, request.channels)
        collector = Collector(services, grant, until_final=request.until_final)
        if not wait:
            # An event may be in the log whose announcement is on its way: in the 5 ms after it was published (store/receiver.py).
            collector.subscription.must_reach = NEWEST
        with services.connections.counted(address, grant.subject, collector.release):
            metrics.HANDSHAKE["poll"].observe(time.perf_counter() - started)
            await self._serve(collector, request.channels, wait, receive, send)

    async def _serve(self, collector: Collector, channels: dict[str, Since], wait: float, receive: Receive, send: Send) -> None:
        services = self._services
        services.feed.follow(collector.subscription, channels)
        services.access.admit(collector)
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await _collect(collector, wait, gone)
            if gone.done():
                return
            if collector.lost is not None:
                raise collector.lost
            if collector.failed or not (collector.ready or collector.complete):
                why = "the gateway shuts down" if collector.released else "Redis is away"
                raise Unavailable(f"the log could not be read in time: {why}")
            await answer(send, 200, collector.body(), b"application/json")
        finally:
            services.feed.leave(collector.subscription)
            services.access.dismiss(collector)
            gone.cancel()


async def _collect(collector: Collector, wait: float, gone: asyncio.Future[None]) -> None:
    """Wait until it is time to answer, for so many seconds at most, or until the client is gone."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not collector.complete:
        limit = wait if collector.ready else max(wait, READ_SECONDS)
        left = started + limit - loop.time()
        if left <= 0 or gone.done() or collector.released:
            return
        collector.changed.clear()
        changed: asyncio.Future[Any] = asyncio.ensure_future(collector.changed.wait())
        try:
            await asyncio.wait([changed, gone], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
