"""Figures: metrics that are read from the state of the process, once a second and whenever somebody asks for them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from gateway import exposition, metrics
from gateway.transports.services import Services

logger = logging.getLogger("gateway.figures")

TICK_SECONDS: Final = 1.0
STALL_SECONDS: Final = 0.1


def measure(services: Services) -> None:
    """Bring the metrics up to date."""
    feed, now = services.feed, time.monotonic()
    metrics.SUBSCRIPTIONS.value = feed.hub.following
    metrics.CHANNELS.value = len(feed.hub.channels)
    metrics.BEHIND.value = len(feed.behind)
    metrics.OLDEST_BEHIND.value = now - min(feed.behind.values(), default=now)
    metrics.PROBE_AGE.value = feed.probe.age
    metrics.REDIS_CONNECTS.value = feed.listener.connects
    metrics.DRAINING.value = services.draining
    metrics.EVENTS_IN["unreadable_entry"].value = feed.log.malformed
    for transport, wires in metrics.WIRES.items():
        found = [stats for wire, stats in feed.hub.stats.items() if wire.name in wires]
        metrics.EVENTS_OUT[transport].value = sum(stats.events for stats in found)
        metrics.BYTES_OUT[transport].value = sum(stats.bytes for stats in found)
        metrics.GAPS[transport].value = sum(stats.gaps for stats in found)
        metrics.DUPLICATES[transport].value = sum(stats.duplicates for stats in found)


async def update_figures(services: Services) -> None:
    """Update the metrics once a second, among them how late the event loop is, until cancelled. Log it when readiness changes."""
    ready = False
    try:
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            late = max(0.0, time.monotonic() - due)
            metrics.LOOP_LAG.observe(late)
            if late > STALL_SECONDS:
                metrics.LOOP_STALLED.value += late
            _share(services)
            if services.feed.ready != ready:
                ready = services.feed.ready
                if ready:
                    logger.info("events get through Redis")
                else:
                    logger.warning("not ready: %s", services.feed.probe.problem)
    finally:
        _share(services)


def _share(services: Services) -> None:
    measure(services)
    exposition.save()
