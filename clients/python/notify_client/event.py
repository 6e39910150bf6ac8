"""Event: what a subscriber gets, and Refused: what it cannot get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        type: what happened
        data: any JSON value
        channel: where
        id: its place in time, and the cursor to go on after it; ``None`` for a live-only event
        final: whether it is the last event of its channel: the job is over
    """

    type: str
    data: Any
    channel: str
    id: str | None
    final: bool = False


class Refused(Exception):
    """The gateway will not serve this subscription, whenever it is asked again.

    Attributes:
        code: the WebSocket close code or HTTP status: 4400 and 400 for a wrong request, 4401 and 401 for a token that is missing,
            bad or expired, 4403 and 403 for a channel that the token does not allow
        reason: why, in the gateway's words
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
