"""Log lines: what log lines about a request or a connection say of it, the same everywhere. There are no log lines about events."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gateway.errors import GatewayError
from gateway.transports.trace import parse_traceparent

logger = logging.getLogger("gateway.requests")


def about(**what: str) -> dict[str, Any]:
    """The ``extra`` of a log line: connection, subject, address and so on, as far as they are known."""
    return {"about": {name: value for name, value in what.items() if value}}


def log_refusal(scope: Mapping[str, Any], error: GatewayError) -> None:
    """Log that a request was refused. Only its path is logged, because the query string may hold a token."""
    client = scope.get("client")
    extra = about(address=client[0] if client else "", traceparent=parse_traceparent(scope["headers"]))
    path = ascii(scope["path"][:80])
    logger.info("%s refused with %d: %s", path, error.status, error.detail, extra=extra | {"kind": str(error.status)})
