"""Access: watches over all clients that read, and ends those whose grant expires or is revoked.

One task sleeps until the next grant expires, so a connection costs an entry in a dictionary instead of a timer. Another task follows
the revocations: as with events, it listens first, and then reads those that are stored.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from contextlib import suppress
from heapq import heappop, heappush
from typing import Final, Protocol

import msgspec
from redis.exceptions import RedisError

from gateway.core.event import show
from gateway.core.grant import Grant
from gateway.core.revocations import KEEP_SECONDS, Revocations
from gateway.errors import GatewayError, Unauthorized, Unavailable
from gateway.feed import Feed
from gateway.store.revocations import REVOKED, RevocationStore, parse_revocation
from gateway.tasks import until_one_ends

logger = logging.getLogger("gateway.access")

TICK_SECONDS: Final = 0.5  # the longest sleep between two checks for expired grants, because the clock may be set
SLOT_SECONDS: Final = 0.25  # grants that expire in the same slot end together, which makes them end up to this much late
LOAD_SECONDS: Final = 3.0  # for which a caller waits until the revocations are known
OVERLAP_SECONDS: Final = 60.0  # by which the gateways' clocks may differ
CLEAN_SECONDS: Final = 3_600.0  # between two removals of old revocations


class GrantHolder(Protocol):
    """A client that reads by right of a grant."""

    grant: Grant

    def on_access_lost(self, error: GatewayError) -> None:
        """The grant has expired or was revoked, as the error says: send the client away."""


class Access:
    """All clients that read, and the revocations known to this process."""

    def __init__(self, feed: Feed, store: RevocationStore) -> None:
        self._feed = feed
        self._store = store
        self._revocations = Revocations()
        self._loaded = asyncio.Event()  # set once the stored revocations have been read
        self._lost = asyncio.Event()  # set when a revocation may have been missed
        self._holders: dict[GrantHolder, float] = {}  # -> the slot in which its grant expires
        self._expiring: dict[float, dict[GrantHolder, None]] = {}  # slot -> the holders
        self._slots: list[float] = []  # a heap of the slots, among them some that have become empty
        self._sooner = asyncio.Event()  # set when a slot comes before all others

    @property
    def loaded(self) -> bool:
        """Whether the stored revocations have been read."""
        return self._loaded.is_set()

    # For the clients

    def admit(self, holder: GrantHolder) -> None:
        """Watch over a holder until it is dismissed. It loses access at once if its grant was revoked since it was checked."""
        expires = holder.grant.expires
        slot = math.ceil(expires / SLOT_SECONDS) * SLOT_SECONDS if expires < math.inf else math.inf
        self._holders[holder] = slot
        if slot < math.inf:
            self._expire_at(slot, holder)
        if self._revocations.covers(holder.grant):
            holder.on_access_lost(_revoked())

    def _expire_at(self, slot: float, holder: GrantHolder) -> None:
        holders = self._expiring.get(slot)
        if holders is None:
            holders = self._expiring[slot] = {}
            if len(self._slots) > 2 * len(self._expiring) + 64:  # most of them are empty
                self._slots = sorted(self._expiring)
            else:
                heappush(self._slots, slot)
            if self._slots[0] == slot:
                self._sooner.set()
        holders[holder] = None

    def dismiss(self, holder: GrantHolder) -> None:
        """Stop watching over a holder."""
        slot = self._holders.pop(holder, math.inf)
        holders = self._expiring.get(slot)
        if holders is not None:
            holders.pop(holder, None)
            if not holders:
                del self._expiring[slot]

    def change(self, holder: GrantHolder, grant: Grant) -> None:
        """Give a holder another grant."""
        self.dismiss(holder)
        holder.grant = grant
        self.admit(holder)

    async def load(self) -> None:
        """Wait until the revocations are known, for ``LOAD_SECONDS`` at most; ``loaded`` says whether they are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOAD_SECONDS):
                await self._loaded.wait()

    def check(self, grant: Grant) -> None:
        """Check that a grant is still valid.

        Raises:
            Unauthorized: if the grant has expired or was revoked.
            Unavailable: if that cannot be known, because Redis has been away since the start.
        """
        if grant.expires <= time.time():
            raise _expired()  # a valid ticket may stand for a token that has expired since
        if not self.loaded:
            raise Unavailable("Redis is away: what was revoked is not known")
        if self._revocations.covers(grant):
            raise _revoked()

    # The tasks

    async def run(self) -> None:
        """End what has expired or was revoked, until cancelled."""
        await until_one_ends(self._expire(), self._follow(), self._clean())

    async def _expire(self) -> None:
        while True:
            now = time.time()
            while self._slots and self._slots[0] <= now:
                for holder in self._expiring.pop(heappop(self._slots), ()):
                    holder.on_access_lost(_expired())
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(TICK_SECONDS, self._slots[0] - now) if self._slots else None):
                    await self._sooner.wait()

    async def _follow(self) -> None:
        caught_up = self._feed.listen(REVOKED, self._hear, self._lost.set)
        # The newest revocation that was read. One that is heard does not count, nor does a read that fails on its way: older ones that
        # were not read yet would then never be.
        newest = 0.0
        while True:
            self._lost.clear()
            await self._feed.listener.confirmed([REVOKED])
            try:
                found = [revocation async for revocation in self._store.read(newest - OVERLAP_SECONDS)]
            except (RedisError, OSError):
                await asyncio.sleep(random.uniform(0.1, 0.5))
                continue
            for revocation in found:
                self._revocations.add(revocation)
                newest = max(newest, revocation.at)
            self._enforce()
            self._loaded.set()
            if not self._lost.is_set():
                caught_up.set()  # only now do clients read what they missed: those revoked while Redis was away must not
            await self._lost.wait()

    def _hear(self, payload: bytes) -> None:
        try:
            revocation = parse_revocation(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.warning("a revocation was dropped: %s", show(payload))
            return
        self._revocations.add(revocation)
        self._enforce()

    def _enforce(self) -> None:
        for holder in [holder for holder in self._holders if self._revocations.covers(holder.grant)]:
            holder.on_access_lost(_revoked())

    async def _clean(self) -> None:
        while True:
            await asyncio.sleep(CLEAN_SECONDS)
            self._revocations.forget(time.time() - KEEP_SECONDS)


def _expired() -> Unauthorized:
    return Unauthorized("the token has expired")


def _revoked() -> Unauthorized:
    return Unauthorized("the token was revoked")
