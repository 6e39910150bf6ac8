"""Connection: what an HTTP connection has whatever is said on it: a transport, room in both directions, and a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.server.deadlines import Deadlines

if TYPE_CHECKING:
    from gateway.server.site import Site
    from gateway.server.streams import StreamWriter


class Connection(asyncio.Protocol):
    """One connection of a site.

    Attributes:
        client: its address, ``None`` where the transport tells none
        drained: done when the transport has room again, ``None`` while it has
        writer: of the response that is under way
    """

    __slots__ = ("_deadline", "_paused", "client", "drained", "site", "transport", "writer")

    transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client: tuple[str, int] | None = None
        self.drained: asyncio.Future[None] | None = None
        self.writer: StreamWriter | None = None
        self._deadline: Deadlines[Connection] | None = None
        self._paused = False

    # Until when

    def _expect(self, deadline: Deadlines[Connection]) -> None:
        if self._deadline is not None:
            self._deadline.remove(self)
        self._deadline = deadline
        deadline.add(self)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.remove(self)
            self._deadline = None

    def on_late(self, deadline: Deadlines[Connection]) -> None:
        """The time is over."""
        raise NotImplementedError

    # How much

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it go on."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.drained = self.site.loop.create_future()
        if self.writer is not None:
            self.writer.on_full()

    def resume_writing(self) -> None:
        self._flow()
        if self.writer is not None:
            self.writer.on_room()

    def _flow(self) -> None:
        if self.drained is not None:
            self.drained.set_result(None)
            self.drained = None
