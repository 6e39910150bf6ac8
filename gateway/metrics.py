"""Every metric, declared in one table."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

EVENTS_IN: Final = Counter("gateway_events_in", "Events heard from Redis", ["kind"])
RECORDED: Final = EVENTS_IN.labels("recorded")
LIVE_ONLY: Final = EVENTS_IN.labels("live_only")
READS: Final = Counter("gateway_log_reads", "Reads of a channel's log")
SHARED_READS: Final = Counter("gateway_log_reads_shared", "Clients who were served by somebody else's read")
CONNECTIONS: Final = Gauge("gateway_connections", "Open client connections", ["transport"])
REFUSALS: Final = Counter("gateway_refusals", "Requests and connections refused", ["status"])
STALLED: Final = Counter("gateway_stalled", "Clients cut because they took no bytes")
LOOP_LAG: Final = Gauge("gateway_loop_lag_seconds", "How late the event loop's last tick was")
LOOP_STALLED: Final = Counter("gateway_loop_stalled_seconds", "For how long the event loop stood still, in stalls of 0.1 s and more")
ROUND_TRIP: Final = Gauge("gateway_redis_round_trip_seconds", "The last probe's way through Redis and back")
