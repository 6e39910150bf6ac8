"""Origins: which pages may use credentials that the browser adds by itself, and which may read the answers (CORS).

A browser adds cookies to the requests of any page, and lets any page open a WebSocket. So a credential that the browser adds by itself
counts only if the ``Origin`` is allowed. Without authentication this holds for every request: the gateway then listens on loopback,
where any page in the developer's browser can reach it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable
from functools import lru_cache
from typing import Final

from gateway.core.event import show
from gateway.errors import Forbidden
from gateway.transports.answers import ALWAYS, answer_problem
from gateway.transports.request import Endpoint, Scope, header, headers
from gateway.transports.writer import Message, Receive, Send

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

ALLOWED_HEADERS: Final = b"authorization, cache-control, content-type, last-event-id, prefer, traceparent, tracestate"
EXPOSED_HEADERS: Final = b"retry-after, www-authenticate"
PREFLIGHT_SECONDS: Final = b"600"
VARY: Final = (b"vary", b"Origin")


class Origins:
    """The allowed origins.

    Args:
        allowed: such as ``https://app.example``, in lower case and without the scheme's default port
        local: whether pages of this machine are allowed too, as under ``GATEWAY_AUTH=none``
    """

    def __init__(self, allowed: tuple[str, ...], *, local: bool = False) -> None:
        self._allowed = frozenset(allowed)
        self._hosts = frozenset(origin.partition("://")[2] for origin in allowed)
        self._local = local

    def allow(self, origin: str) -> bool:
        """Whether a page of this origin is trusted. Origins are compared as a whole, never by their endings or by a pattern."""
        return origin in self._allowed or (self._local and _is_local(origin))

    def check_ambient(self, scope: Scope) -> None:
        """Check a request whose credential the browser may have added by itself.

        Raises:
            Forbidden: unless its origin is allowed, or the browser says that the page is the gateway's own.
        """
        found = headers(scope, b"origin")
        if len(found) == 1 and self.allow(found[0]):
            return
        # With a plain GET to the page's own origin a browser sends no Origin, but this header, which no page can set.
        if not found and header(scope, b"sec-fetch-site") == "same-origin":
            return
        shown = show(found[0]) if found else "absent"
        raise Forbidden(f"origin {shown}: a cookie or a password counts only with an origin of GATEWAY_ALLOWED_ORIGINS")

    def check_local(self, scope: Scope) -> None:
        """Check a request to a gateway without authentication.

        Raises:
            Forbidden: if it comes from a page of another machine, or uses a host name that somebody else may have pointed at this machine.
        """
        host = header(scope, b"host")
        if host and host.lower() not in self._hosts and not _cannot_be_rebound(host):
            raise Forbidden(f"host {show(host)}: without authentication only this machine's own names are served")
        for origin in headers(scope, b"origin"):
            page = origin.removesuffix("/")  # no browser ends it so, but programs do, such as those with Go's x/net/websocket
            if not self.allow(page) and (not host or page.partition("://")[2] != host):
                raise Forbidden(f"origin {show(origin)}: without authentication only pages of this machine are served")


def _is_local(origin: str) -> bool:
    scheme, _, host = origin.partition("://")
    found = _HOST.fullmatch(host)
    return scheme in ("http", "https") and found is not None and _is_loopback(found[1])


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(64)
def _cannot_be_rebound(host: str) -> bool:
    # DNS rebinding needs a name that an attacker can register: not an address, and not a name without a dot.
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1]
    if "." not in name or name.lower().endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Cors:
    """An endpoint whose answers pages of allowed origins may read (WHATWG Fetch, "CORS protocol")."""

    def __init__(self, endpoint: Endpoint, origins: Origins, method: str) -> None:
        self._endpoint = endpoint
        self._origins = origins
        self._methods = method.encode()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not a coroutine that wraps those of the endpoint and the server: each one costs a handshake a microsecond.
        found = headers(scope, b"origin")
        allowed = len(found) == 1 and self._origins.allow(found[0])
        if found and scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method"):
            return self._preflight(found[0], send, allowed=allowed)
        extra = (VARY, *_permission(found[0])) if allowed else (VARY,)

        def send_with(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                # A new list, because the middleware of a host application may add to it.
                message = {**message, "headers": [*message["headers"], *extra]}
            return send(message)

        return self._endpoint(scope, receive, send_with)

    async def _preflight(self, origin: str, send: Send, *, allowed: bool) -> None:
        if not allowed:
            error = Forbidden(f"origin {show(origin)}: not one of GATEWAY_ALLOWED_ORIGINS")
            await answer_problem(send, error, [VARY])
            return
        fields = [
            VARY,
            *_permission(origin),
            (b"access-control-allow-methods", self._methods),
            (b"access-control-allow-headers", ALLOWED_HEADERS),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
            *ALWAYS,
        ]
        await send({"type": "http.response.start", "status": 204, "headers": fields})
        await send({"type": "http.response.body", "body": b""})


def _permission(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", EXPOSED_HEADERS),
    )
