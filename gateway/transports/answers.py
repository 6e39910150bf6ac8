"""Answers: responses with JSON or a problem (RFC 9457), as ASGI messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway import metrics
from gateway.errors import GatewayError, MethodNotAllowed, Unauthorized
from gateway.transports.writer import Send

Headers = Iterable[tuple[bytes, bytes]]

# An answer is meant for one client at one moment, so it must not be cached, and it is never a page.
ALWAYS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


async def answer(send: Send, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
    """Send a whole response."""
    fields = [*headers, *ALWAYS]
    if status != 204:
        fields += [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: object) -> None:
    """Send a ``200`` response with a value as JSON."""
    await answer(send, 200, msgspec.json.encode(value), b"application/json")


async def answer_problem(send: Send, error: GatewayError, headers: Headers = (), *, is_refusal: bool = True) -> None:
    """Send an error as ``application/problem+json``.

    Args:
        send: of ASGI
        error: what to answer with
        headers: further ones
        is_refusal: whether it counts as a refusal in the metrics
    """
    if is_refusal:
        metrics.refused(error)
    extra = list(headers)
    if isinstance(error, Unauthorized):
        # A 401 must name a scheme (RFC 9110, section 15.5.2), and tell a token that is no good from none (RFC 6750, section 3.1).
        extra.append((b"www-authenticate", b'Bearer error="invalid_token"' if error.has_token else b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        extra.append((b"allow", ", ".join(error.allowed).encode()))
    if error.retry_after is not None:
        extra.append((b"retry-after", b"%d" % error.retry_after))
    await answer(send, error.status, msgspec.json.encode(error.problem()), b"application/problem+json", extra)


def check_method(scope: Mapping[str, Any], *allowed: str) -> None:
    """Check the method of a request.

    Raises:
        MethodNotAllowed: if it is not one of those allowed.
    """
    if scope["method"] not in allowed:
        raise MethodNotAllowed(f"method {scope['method']!a}: {' or '.join(allowed)} is expected", allowed)
