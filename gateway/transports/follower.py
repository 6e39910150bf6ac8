"""Follower: one client on an open stream: what SSE and WebSocket have in common."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.grant import Grant
from gateway.core.page import Since
from gateway.core.subscription import Subscription
from gateway.core.wire import Wire
from gateway.errors import DONE, OVERLOADED, GatewayError
from gateway.transports.services import Services
from gateway.transports.writer import Send, Writer, nothing


class Follower:
    """An ``OpenStream`` and a ``Holder``. A transport adds ``beat`` and ``goodbye``, which write its own bytes."""

    __slots__ = ("_send", "_services", "grant", "subscription", "writer")
    transport: str

    def __init__(
        self, services: Services, grant: Grant, writer: Writer, send: Send, wire: Wire, *, until_final: bool, greeting: bytes = b""
    ) -> None:
        self.grant = grant
        self._send = send
        self.writer = writer
        self._services = services
        self.subscription = Subscription(
            wire=wire,
            write=writer.write,
            on_behind=services.catch_up,
            on_done=self._done,
            on_failed=self._failed,
            until_final=until_final,
            greeting=greeting,
        )
        writer.on_full = self.subscription.pause
        writer.on_room = self.subscription.resume
        writer.on_gone = self.leave

    def _done(self) -> None:
        self._services.connections.end(self, DONE, "the channels are over")

    def _failed(self) -> None:
        self._services.connections.end(self, OVERLOADED, "reconnect")

    def open(self, address: str, channels: Mapping[str, Since]) -> None:
        """Begin to follow these channels. The client is watched over from now on, until ``leave``."""
        services = self._services
        services.connections.add(self, address)
        services.access.admit(self)
        if channels:
            services.feed.follow(self.subscription, channels)

    def leave(self) -> None:
        """Let go of everything, because the client is gone."""
        self._services.feed.leave(self.subscription)
        # Nothing may refer back to this, or it would be left to the garbage collector.
        self.subscription.on_done = self.subscription.on_failed = nothing
        self._services.access.dismiss(self)
        self._services.connections.remove(self)

    def on_access_lost(self, error: GatewayError) -> None:
        """Send the client away."""
        self._services.connections.end(self, error.close_code, error.detail)

    def beat(self) -> None:
        """Write a heartbeat."""
        raise NotImplementedError

    async def goodbye(self, code: int, reason: str) -> None:
        """Tell the client why the stream ends, and end it."""
        raise NotImplementedError
