"""Follower: one client on an open stream: what SSE and WebSocket have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway import metrics
from gateway.core.grant import Grant
from gateway.core.page import Since
from gateway.core.subscription import Subscription
from gateway.core.wire import Wire
from gateway.errors import DONE, OVERLOADED, GatewayError
from gateway.transports.services import Services
from gateway.transports.writer import Receive, Send, Writer, nothing


class Follower:
    """An ``OpenStream`` and a ``GrantHolder``. A transport adds what depends on its own bytes and on the server."""

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

    def open(self, address: str, channels: Mapping[str, Since], began: float) -> bool:
        """Begin to follow these channels. The client is watched over from now on, until ``leave``.

        Args:
            address: for which it is counted
            channels: where to begin on each
            began: when its handshake began, by ``perf_counter``

        Returns:
            whether the stream goes on by itself. Otherwise the caller must ``carry`` it, and then call ``leave``
        """
        services = self._services
        try:
            services.connections.add(self, address)
            services.access.admit(self)
            if channels:
                services.feed.follow(self.subscription, channels)
            metrics.HANDSHAKE[self.transport].observe(time.perf_counter() - began)
            return self.detach()
        except BaseException:
            self.leave()
            raise

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

    # What a transport adds

    def detach(self) -> bool:
        """Let the stream go on without a task; ``False`` if that is not possible."""
        raise NotImplementedError

    async def carry(self, receive: Receive) -> None:
        """Wait for the end of a stream that could not be detached; a writer over ``send`` needs tasks for that."""
        raise NotImplementedError

    def beat(self) -> None:
        """Write a heartbeat."""
        raise NotImplementedError

    async def goodbye(self, code: int, reason: str) -> None:
        """Tell the client why the stream ends, and end it."""
        raise NotImplementedError
