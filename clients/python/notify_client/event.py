"""Event, which a subscriber gets, and Refused, which is raised if the gateway will not serve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        type: what happened
        data: any JSON value
        channel: on which it was published
        id: its place in the channel's log, and the cursor with which to go on after it; ``None`` for a live-only event
        final: whether it is the last event of its channel: the job is over
    """

    type: str
    data: Any
    channel: str
    id: str | None
    final: bool = False


class Refused(Exception):
    """The gateway will not serve this subscription, and trying the same again is of no use.

    Attributes:
        code: the WebSocket close code or HTTP status: 4400 or 400 for a wrong request, 4401 or 401 for a token that is missing,
            invalid or expired, 4403 or 403 for a channel that the token does not allow
        reason: the gateway's explanation
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
