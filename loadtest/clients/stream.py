"""What the clients of all transports have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

Message = dict[str, Any]
"""An event, which has a ``channel``, or a notice, which has an ``op``."""

OPEN_SECONDS: Final = 20.0
SILENT_SECONDS: Final = 75.0  # three heartbeats of the gateway


class Ended(Exception):
    """The connection was refused or has ended: with a close code or HTTP status, 0 if there is none, and the reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}" if code else reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Target:
    """The address of the gateway, and the bearer token; an empty one is not sent."""

    host: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Stream(Protocol):
    """One connection that follows one channel."""

    name: ClassVar[str]
    batches: ClassVar[bool]  # whether an answer holds several events, and its gap notice may mean any place among them

    def __init__(self, target: Target) -> None: ...

    def open(self, channel: str, since: str, *, until_final: bool) -> None:
        """Connect and subscribe.

        Args:
            since: a cursor, ``0``, ``last`` or ``now``

        Raises:
            Ended: if the connection cannot be opened.
        """

    def __iter__(self) -> Iterator[Message]:
        """Yield events and notices as they arrive, until the channel's final event.

        Raises:
            Ended: if the connection ends before that.
        """

    def close(self) -> None:
        """Close the connection. May be called from another greenlet."""


def query(channel: str, since: str, *, until_final: bool) -> str:
    """The query string of the subscription."""
    where = f"channel={channel},{since}" if since.isdecimal() and since != "0" else f"channel={channel}&since={since}"
    return where + "&until=final" * until_final
