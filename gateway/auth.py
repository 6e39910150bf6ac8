"""Token -> Grant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.core.grant import Grant

Authenticate = Callable[[Mapping[str, Any]], Awaitable[Grant]]
"""Takes an ASGI scope; raises ``Unauthorized`` where it brings no good token."""

_EVERYTHING = Grant.everything()


async def anybody(scope: Mapping[str, Any]) -> Grant:
    """``GATEWAY_AUTH=none``: everybody may do everything. The gateway then binds to loopback only."""
    return _EVERYTHING
