"""The errors that a client can cause or meet, with the HTTP status and the WebSocket close code of each.

The close code tells a client what to do (docs/protocol.md): after 4400 to 4403 it must not try the same again, after 1000 the stream is
over, and after all others it may reconnect.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar


class GatewayError(Exception):
    """An error that is answered to the client.

    >>> Forbidden("channel 'jobs:7': the token does not allow it").status
    403

    Args:
        detail: names the value at fault, the rule and the way out
        channel: that it is about, if it is about one
        retry_after: seconds after which the client may try again; ``None`` if there is no use in saying so
        quoted: a part of what the client has sent, which is shown to the client after the detail, but never logged
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
        """The phrase of the status, as RFC 9457 wants it for problems of the type ``about:blank``."""
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
    """The request is malformed."""

    status = 400
    close_code = 4400


class Unauthorized(GatewayError):
    """There is no token, or it is invalid or expired.

    Args:
        detail: as of every error
        has_token: whether there is one
    """

    status = 401
    close_code = 4401

    def __init__(self, detail: str, *, has_token: bool = True) -> None:
        super().__init__(detail)
        self.has_token = has_token


class Forbidden(GatewayError):
    """The token does not allow this."""

    status = 403
    close_code = 4403


class NotFound(GatewayError):
    """There is nothing at this path."""

    status = 404
    close_code = 4400


class MethodNotAllowed(GatewayError):
    """The path does not know this method, but those in ``allowed`` (RFC 9110, section 15.5.6)."""

    status = 405
    close_code = 4400

    def __init__(self, detail: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.allowed = allowed


class RequestTimeout(GatewayError):
    """A request was not complete in time."""

    status = 408
    close_code = 4400


class TooLarge(GatewayError):
    """A body or a frame is over its limit."""

    status = 413
    close_code = 1009


class UriTooLong(GatewayError):
    """An address is over its limit."""

    status = 414
    close_code = 4400


class UnsupportedMedia(GatewayError):
    """A body that is not JSON, or a WebSocket frame that is binary."""

    status = 415
    close_code = 1003


class UpgradeRequired(GatewayError):
    """A WebSocket endpoint was requested without an upgrade, or with another version of the protocol than ours."""

    status = 426
    close_code = 4400


class Unprocessable(GatewayError):
    """Valid JSON that breaks the rules for names and events."""

    status = 422
    close_code = 4400


class TooMany(GatewayError):
    """A client sends more than it may in this time."""

    status = 429
    close_code = 1008


class HeadTooLarge(GatewayError):
    """A request's headers are over their limits."""

    status = 431
    close_code = 4400


class Unavailable(GatewayError):
    """The gateway is overloaded or draining, or Redis is away: the client may come back later."""

    status = 503
    close_code = 1013

    def __init__(self, detail: str, *, channel: str | None = None, retry_after: int | None = 1) -> None:
        super().__init__(detail, channel=channel, retry_after=retry_after)


class TooManyConnections(Unavailable):
    """One client has as many connections open as it may. Others are served, so this is counted apart."""


class SettingsError(Exception):
    """Settings are missing or wrong. The text has a line for each, with the variable, the value and what is expected."""


# Close codes that belong to no error (RFC 6455, section 7.4.1; from 4000 on our own)
DONE = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_CODE = 1005  # never sent: the close frame has none, or there was none
ABNORMAL = 1006  # never sent: the connection has failed
INVALID_DATA = 1007
INTERNAL_ERROR = 1011
RESTART = 1012
OVERLOADED = 1013
STALLED = 4408
