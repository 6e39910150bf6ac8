"""RevocationStore: revocations, kept in Redis and announced to all gateways.

They are kept by time in the sorted set ``<prefix>:revoked``, so that a gateway that was away can read what it missed, and announced on
a pub/sub channel whose name no event channel can have. As with events, a revocation is stored before it is announced.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from gateway.core.revocations import KEEP_SECONDS, MAX_REVOCATIONS, Revocation
from gateway.errors import Unavailable
from gateway.store.connection import needs_redis

REVOKED: Final = "!revoked"  # the pub/sub channel, without the prefix
PAGE: Final = 2_000

_decode: Final = msgspec.json.Decoder(Revocation)


def parse_revocation(data: bytes) -> Revocation:
    """Parse the announcement of a revocation.

    Raises:
        msgspec.DecodeError: if it is not one.
    """
    return _decode.decode(data)


class RevocationStore:
    """The revocations of one Redis."""

    def __init__(self, client: Redis, prefix: str = "notify") -> None:
        self._client = client
        self._prefix = prefix
        self._key = f"{prefix}:revoked"

    async def revoke(self, *, sub: str | None = None, jti: str | None = None) -> Revocation:
        """Revoke the tokens that a subject was issued up to now (``sub``), or one token (``jti``).

        Returns:
            what was stored and announced

        Raises:
            Unavailable: if Redis is away, or as many revocations are kept as may be.
        """
        now = time.time()
        member = msgspec.json.encode(Revocation(sub, jti))
        revocation = Revocation(sub, jti, now)
        with needs_redis():
            await self._client.zremrangebyscore(self._key, "-inf", now - KEEP_SECONDS)
            if await self._client.zcard(self._key) >= MAX_REVOCATIONS and await self._client.zscore(self._key, member) is None:
                raise Unavailable(
                    f"{MAX_REVOCATIONS} revocations are kept, more are not allowed: replace the key that tokens are signed with"
                )
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.zadd(self._key, {member: now}, gt=True)
                pipeline.publish(f"{self._prefix}:{REVOKED}", msgspec.json.encode(revocation))
                await pipeline.execute()
        return revocation

    async def read(self, since: float) -> AsyncIterator[Revocation]:
        """The revocations since this time (seconds since 1970), newest first.

        Raises:
            RedisError, OSError: if Redis is away.
        """
        # Newest first, because pages count from their end of the set: what is revoked again meanwhile moves to the newest end, and what
        # is too old goes from the other one. Counted from there, the next page would begin too late and leave some out.
        start = 0
        while True:
            found: Any = await self._client.zrevrangebyscore(self._key, "+inf", since, start=start, num=PAGE, withscores=True)
            for member, at in found:
                try:
                    kept = _decode.decode(member)
                except msgspec.DecodeError:
                    continue
                yield Revocation(kept.sub, kept.jti, at)
            if len(found) < PAGE:
                return
            start += PAGE
