"""Lines about a request or a connection: what there is to know of it, in the same words everywhere. None for an event."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gateway.errors import GatewayError
from gateway.transports.trace import parse_traceparent

logger = logging.getLogger("gateway.requests")


def about(**what: str) -> dict[str, Any]:
    """``extra`` for a logger: connection, subject, address and so on, those that are known."""
    return {"about": {name: value for name, value in what.items() if value}}


def log_refusal(scope: Mapping[str, Any], error: GatewayError) -> None:
    """Say that a request was refused. Its address without the query string, in which a token may be."""
    client = scope.get("client")
    extra = about(address=client[0] if client else "", traceparent=parse_traceparent(scope["headers"]))
    path = ascii(scope["path"][:80])
    logger.info("%s refused with %d: %s", path, error.status, error.detail, extra=extra | {"kind": str(error.status)})
