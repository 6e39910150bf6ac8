"""Tickets: grants that are kept in Redis for half a minute, each redeemed at most once for a random text.

They are for an EventSource or a WebSocket in a browser, which can carry a credential only in its URL: by the time a ticket turns up in
a proxy's log it is worthless. Redis keeps only a hash of it, so nobody who can read the keys can use it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from typing import Final

import msgspec
from redis.asyncio import Redis

from gateway.core.grant import Grant
from gateway.errors import TooMany, Unauthorized
from gateway.store.connection import needs_redis

TICKET_SECONDS: Final = 30  # for which a ticket is good
KEY_BYTES: Final = 200  # that a ticket takes in Redis besides the grant
MAX_BYTES: Final = 4_194_304  # of one subject's tickets from this process within ``TICKET_SECONDS``: some 10,000 of the usual size

_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_decode: Final = msgspec.json.Decoder(Grant)


class Tickets:
    """The tickets of one Redis."""

    def __init__(self, client: Redis, prefix: str = "notify") -> None:
        self._client = client
        self._prefix = prefix
        self._issued: dict[str, int] = {}  # bytes, by subject
        self._since = 0.0

    def _key(self, ticket: str) -> str:
        return f"{self._prefix}:ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    async def issue(self, grant: Grant) -> str:
        """A ticket for this grant, valid once within ``TICKET_SECONDS``.

        Raises:
            TooMany: if the subject has taken so many tickets that they would fill Redis.
            Unavailable: if Redis is away.
        """
        ticket = secrets.token_urlsafe(32)
        kept = msgspec.json.encode(grant)
        self._count(grant.subject, len(kept) + KEY_BYTES)
        with needs_redis():
            await self._client.set(self._key(ticket), kept, ex=TICKET_SECONDS)
        return ticket

    def _count(self, subject: str, size: int) -> None:
        now = time.monotonic()
        if now - self._since > TICKET_SECONDS:
            self._issued, self._since = {}, now
        issued = self._issued[subject] = self._issued.get(subject, 0) + size
        if issued > MAX_BYTES:
            raise TooMany(f"more than {MAX_BYTES} bytes of tickets in {TICKET_SECONDS} s for one subject", retry_after=TICKET_SECONDS)

    async def redeem(self, ticket: str) -> Grant:
        """The grant of a ticket, which is used up by this: of several processes that redeem it at once, only one succeeds.

        Raises:
            Unauthorized: if there is no such ticket, or it was used, is too old, or its grant is not one that a token can give.
            Unavailable: if Redis is away. Then the ticket may or may not have been used up.
        """
        if not _TICKET.fullmatch(ticket):
            raise Unauthorized("this is not a ticket: take one from POST /tickets")
        with needs_redis():
            found = await self._client.getdel(self._key(ticket))
        if found is None:
            raise Unauthorized(f"the ticket was used, or is older than {TICKET_SECONDS} s: take another one from POST /tickets")
        try:
            return _decode.decode(found)
        except msgspec.DecodeError:
            # Of a gateway without authentication that uses the same Redis: everybody has its grant, which never expires, and JSON knows no
            # infinity. Or of another version.
            raise Unauthorized("the ticket is another gateway's: take one from POST /tickets of this one") from None
