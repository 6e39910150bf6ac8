"""Connection: the parts of an HTTP connection that do not depend on what is sent on it: flow control both ways, and a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from gateway.server.deadlines import Deadlines

if TYPE_CHECKING:
    from gateway.server.site import Site
    from gateway.server.streams import StreamWriter

_MAPPED: Final = "::ffff:"  # an IPv4 address as IPv6 (RFC 4291, section 2.5.5.2)


def client_address(peer: Any) -> tuple[str, int] | None:
    """A peer's address and port, without IPv6's flow and scope; ``None`` for a Unix socket.

    A socket that listens on ``::`` gives IPv4 addresses as IPv6. That of a trusted proxy, or of this machine, would not be known again.
    """
    if not isinstance(peer, tuple):
        return None
    host, port, *_ = peer
    return (host.removeprefix(_MAPPED) if "." in host else host), port


class Connection(asyncio.Protocol):
    """One connection of a site.

    Attributes:
        site: the server that it belongs to
        client: the client's address and port; ``None`` if the transport has none
        drained: a future that is done once the transport has room again; ``None`` while it has
        writer: that of the response that is under way, if there is one
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

    # The deadline

    def _set_deadline(self, deadline: Deadlines[Connection]) -> None:
        if self._deadline is not None:
            self._deadline.remove(self)
        self._deadline = deadline
        deadline.add(self)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.remove(self)
            self._deadline = None

    def on_late(self, deadline: Deadlines[Connection]) -> None:
        """The connection's deadline has passed."""
        raise NotImplementedError

    # Flow control

    def pause_reading(self) -> None:
        """Read nothing more from the client for now."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.drained = self.site.loop.create_future()
        if self.writer is not None:
            self.writer.on_full()

    def resume_writing(self) -> None:
        self._set_drained()
        if self.writer is not None:
            self.writer.on_room()

    def _set_drained(self) -> None:
        if self.drained is not None:
            self.drained.set_result(None)
            self.drained = None
