"""The errors a client can cause or meet: HTTP status and WebSocket close code of each in one place.

The range of a close code says what a client should do (docs/protocol.md): 4400-4403 do not retry as is, all others reconnect.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar


class GatewayError(Exception):
    """An error with an answer. ``detail`` names the value at fault, the rule and the way out.

    ``quoted`` is what somebody sent whose business it is: told to them behind the detail, and in no log.

    >>> Forbidden("channel 'jobs:7': the token does not allow it").status
    403
    """

    status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011

    def __init__(self, detail: str, *, channel: str | None = None, retry_after: int | None = None, quoted: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.channel = channel
        self.retry_after = retry_after
        self.quoted = quoted

    @property
    def title(self) -> str:
        """The status in words, as RFC 9457 wants it for problems of type ``about:blank``."""
        return HTTPStatus(self.status).phrase

    def problem(self) -> dict[str, object]:
        """The error as a problem object (RFC 9457, section 3)."""
        problem: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": f"{self.detail}: {self.quoted}" if self.quoted else self.detail,
        }
        if self.channel is not None:
            problem["channel"] = self.channel
        return problem


class BadRequest(GatewayError):
    """What came is malformed."""

    status = 400
    close_code = 4400


class Unauthorized(GatewayError):
    """There is no token, or it is bad or expired."""

    status = 401
    close_code = 4401


class Forbidden(GatewayError):
    """The token does not allow this."""

    status = 403
    close_code = 4403


class NotFound(GatewayError):
    """There is nothing at this path."""

    status = 404
    close_code = 4400


class MethodNotAllowed(GatewayError):
    """The path knows no such method, but these (RFC 9110, section 15.5.6)."""

    status = 405
    close_code = 4400

    def __init__(self, detail: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.allowed = allowed


class RequestTimeout(GatewayError):
    """A request did not come whole in time."""

    status = 408
    close_code = 4400


class TooLarge(GatewayError):
    """A body or frame is over its limit."""

    status = 413
    close_code = 1009


class UriTooLong(GatewayError):
    """An address is over its limit."""

    status = 414
    close_code = 4400


class UnsupportedMedia(GatewayError):
    """A body or frame of a kind that is not understood: not JSON over HTTP, binary over WebSocket."""

    status = 415
    close_code = 1003


class UpgradeRequired(GatewayError):
    """A WebSocket endpoint was asked without an upgrade."""

    status = 426
    close_code = 4400


class Unprocessable(GatewayError):
    """Valid JSON that breaks the rules for names and events."""

    status = 422
    close_code = 4400


class TooMany(GatewayError):
    """More commands or requests than a client may send."""

    status = 429
    close_code = 1008


class HeadTooLarge(GatewayError):
    """A request's headers are over their limits."""

    status = 431
    close_code = 4400


class Unavailable(GatewayError):
    """Overloaded, draining, or Redis is away: come back later."""

    status = 503
    close_code = 1013

    def __init__(self, detail: str, *, channel: str | None = None, retry_after: int | None = 1) -> None:
        super().__init__(detail, channel=channel, retry_after=retry_after)


class SettingsError(Exception):
    """A setting is missing or wrong. The text names the variable, the value and what is expected, a line each."""


DONE = 1000
GOING_AWAY = 1001
RESTART = 1012
OVERLOADED = 1013
STALLED = 4408
