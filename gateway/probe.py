"""Probe: whether events get through, found out by sending something through Redis the way that events go."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import suppress
from typing import Final

from gateway import metrics
from gateway.errors import Unavailable
from gateway.store.listener import Listener
from gateway.store.log import Log

PROBE_SECONDS: Final = 1.0
READY_SECONDS: Final = 4.5  # how old the last probe that came back may be: readiness must turn false within 5 s
AWAY_SECONDS: Final = 0.3  # for which the connection may be lost before readiness turns false: mostly it is back sooner


class Probe:
    """Sends probes to this process itself, through a pub/sub channel of its own.

    Args:
        listener: must be subscribed to ``name``, and give its messages to ``receive``
        log: announces the probes

    Attributes:
        name: of the pub/sub channel, without the prefix
    """

    def __init__(self, listener: Listener, log: Log) -> None:
        self.name = f"!{os.urandom(8).hex()}"
        self._listener = listener
        self._log = log
        self._back_at = time.monotonic() - READY_SECONDS  # as if one had come back just too long ago

    @property
    def age(self) -> float:
        """Seconds since the last probe that came back was sent."""
        return time.monotonic() - self._back_at

    @property
    def problem(self) -> str:
        """Why events do not get through; empty if they do."""
        if self._listener.away >= AWAY_SECONDS:
            return "there is no connection to Redis"
        if self.age >= READY_SECONDS:
            return f"no probe has come back from Redis in the last {READY_SECONDS:g} s"
        return ""

    async def run(self) -> None:
        """Send a probe about once a second, until cancelled."""
        while True:
            # A failure needs no handling here: it shows in the age of the last probe that came back.
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    await self._listener.confirmed([self.name])
                    await self._log.probe(self.name, str(time.monotonic_ns()).encode())
            await asyncio.sleep(PROBE_SECONDS * random.uniform(0.8, 1.0))

    def receive(self, payload: bytes) -> None:
        """Take a probe that has come back."""
        sent = int(payload) / 1e9
        self._back_at = max(self._back_at, sent)
        metrics.ROUND_TRIP.observe(time.monotonic() - sent)
