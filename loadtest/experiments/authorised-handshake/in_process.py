"""What does authentication alone cost? CPU to authenticate a caller, admit it and dismiss it, without sockets.

uv run python loadtest/experiments/authorised-handshake/in_process.py
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from gateway import Settings
from gateway.app import create_app
from gateway.auth import tokens
from gateway.auth.keys import secret_key
from gateway.core.grant import Grant
from gateway.errors import GatewayError
from gateway.transports.services import Services
from tests.support.tokens import SECRET, make_token

TOKENS = 3_000
NOWHERE = "redis://127.0.0.1:1"  # no Redis is needed

Scope = dict[str, object]


class Reader:
    """A client with a grant."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant

    def on_access_lost(self, error: GatewayError) -> None:
        raise error


def scope_with(token: str) -> Scope:
    head = {"host": "127.0.0.1:8000", "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-key": "x" * 24}
    head |= {"sec-websocket-version": "13", "user-agent": "x" * 80, "authorization": f"Bearer {token}"}
    return {"query_string": b"channel=user:ann", "headers": [(name.encode(), value.encode()) for name, value in head.items()]}


async def per_caller(services: Services, scopes: list[Scope]) -> float:
    """Microseconds of CPU for each caller."""
    begun = time.process_time()
    for scope in scopes:
        reader = Reader(await services.gate.authenticate(scope))
        services.access.admit(reader)
        services.access.dismiss(reader)
    return (time.process_time() - begun) / len(scopes) * 1e6


async def main() -> None:
    everybody = create_app(Settings(redis_url=NOWHERE, auth="none")).services
    holders = create_app(Settings(redis_url=NOWHERE, jwt_secret=SECRET)).services
    holders.access._loaded.set()  # noqa: SLF001 - as if the revocations had been loaded, and there were none
    texts = [make_token(jti=str(i)) for i in range(TOKENS)]
    scopes = [scope_with(text) for text in texts]
    for name, services in (("no authentication", everybody), ("a token never seen", holders), ("a token seen before", holders)):
        print(f"{await per_caller(services, scopes):6.1f} us  {name}")
    key = secret_key(SECRET)
    begun = time.process_time()
    for text in texts:
        tokens._verified_claims(text, key)  # noqa: SLF001 - the part that PyJWT does
    print(f"{(time.process_time() - begun) / TOKENS * 1e6:6.1f} us  of that to verify the signature and decode the JSON")


if __name__ == "__main__":
    asyncio.run(main())
