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
    """The connection is over, or did not come about: a close code or HTTP status (0 without one), and the reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}" if code else reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and as whom."""

    host: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Stream(Protocol):
    """One connection that follows one channel."""

    name: ClassVar[str]
    batches: ClassVar[bool]  # whether events come several in an answer, and a gap stands for any place in it

    def __init__(self, target: Target) -> None: ...

    def open(self, channel: str, since: str, *, until_final: bool) -> None:
        """
        Args:
            since: a cursor, ``0``, ``last`` or ``now``

        Raises:
            Ended: if it does not open.
        """

    def __iter__(self) -> Iterator[Message]:
        """What comes, until the channel is over.

        Raises:
            Ended: if the connection ends before.
        """

    def close(self) -> None:
        """End it, from any greenlet."""


def query(channel: str, since: str, *, until_final: bool) -> str:
    """The part of the address behind ``?``."""
    where = f"channel={channel},{since}" if since.isdecimal() and since != "0" else f"channel={channel}&since={since}"
    return where + "&until=final" * until_final
