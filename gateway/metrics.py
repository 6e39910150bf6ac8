"""Every metric, declared in one table.

Metrics are plain numbers in this process, because some are counted for each event, and a counter of prometheus-client costs 1 to 3 us
each time. They are handed to prometheus-client only when somebody asks for them (exposition.py). All values of every label are listed
here, so there are never more series than these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from gateway import errors

Kind = Literal["counter", "sum", "max", "histogram"]
"""The kind of a metric; ``sum`` and ``max`` are gauges, and say how those of several workers are combined."""


class Number:
    """One series of a counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def read(self) -> list[float]:
        return [self.value]


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> list[float]:
        """How many there were up to each bound and above the last, and their sum."""
        return [*self._counts, self._sum]


class Row:
    """One metric: a series for each value of its label, or a single series if it has no label. Adds itself to the table."""

    def __init__(self, kind: Kind, name: str, help: str, label: str, bounds: Sequence[float] = ()) -> None:
        self.kind = kind
        self.name = name
        self.help = help
        self.label = label
        self.bounds = bounds
        self.cells: dict[str, Number | Distribution] = {}
        TABLE.append(self)


TABLE: Final[list[Row]] = []


def _numbers(kind: Kind, name: str, help: str, label: str = "", values: Iterable[str] = ("",)) -> dict[str, Number]:
    cells = {value: Number() for value in values}
    Row(kind, name, help, label).cells.update(cells)
    return cells


def _counter(name: str, help: str) -> Number:
    return _numbers("counter", name, help)[""]


def _counters(name: str, help: str, label: str, values: Iterable[str]) -> dict[str, Number]:
    return _numbers("counter", name, help, label, values)


def _gauge(name: str, help: str, kind: Kind = "sum") -> Number:
    return _numbers(kind, name, help)[""]


def _histograms(name: str, help: str, bounds: Sequence[float], label: str = "", values: Iterable[str] = ("",)) -> dict[str, Distribution]:
    cells = {value: Distribution(bounds) for value in values}
    Row("histogram", name, help, label, bounds).cells.update(cells)
    return cells


def _histogram(name: str, help: str, bounds: Sequence[float]) -> Distribution:
    return _histograms(name, help, bounds)[""]


def _reasons(kind: type[errors.GatewayError]) -> Iterator[tuple[type[errors.GatewayError], str]]:
    yield kind, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")
    for narrower in kind.__subclasses__():
        yield from _reasons(narrower)


REASONS: Final = dict(_reasons(errors.GatewayError))
TRANSPORTS: Final = ("websocket", "sse", "poll")
CODES: Final = ("1000", "1001", "1002", "1003", "1007", "1008", "1009", "1011", "1012", "1013", "4400", "4401", "4403", "4408")

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# The table

CONNECTIONS: Final = _numbers("sum", "gateway_connections", "Open streams and waiting polls", "transport", TRANSPORTS)
SUBSCRIPTIONS: Final = _gauge("gateway_subscriptions", "Channels followed, counted once for each client")
CHANNELS: Final = _gauge("gateway_channels", "Channels that Redis was asked for")
HANDSHAKE: Final = _histograms(
    "gateway_handshake_seconds",
    "Time from a request's head to the open stream, with the check of its token",
    _FAST,
    "transport",
    TRANSPORTS,
)
REFUSALS: Final = _counters("gateway_refusals_total", "Requests, connections and commands refused", "reason", REASONS.values())
GOODBYES: Final = _counters("gateway_goodbyes_total", "Streams that the gateway ended, by close code", "code", CODES)
STALLED: Final = _counter("gateway_stalled_total", "Clients cut because they took no bytes")

EVENTS_IN: Final = _counters(
    "gateway_events_in_total",
    "Announcements heard from Redis, and log entries that were not events",
    "kind",
    ("recorded", "live_only", "malformed", "unreadable_entry"),
)
RECORDED: Final = EVENTS_IN["recorded"]
LIVE_ONLY: Final = EVENTS_IN["live_only"]
MALFORMED: Final = EVENTS_IN["malformed"]
EVENTS_OUT: Final = _counters("gateway_events_out_total", "Events written to clients", "transport", TRANSPORTS)
BYTES_OUT: Final = _counters("gateway_bytes_out_total", "Bytes of events written to clients", "transport", TRANSPORTS)
LATENCY: Final = _histograms(
    "gateway_delivery_seconds",
    "Time from publishing an event to writing it to the last client, by transport; measured with the clocks of Redis's host and this one",
    _FAST,
    "transport",
    TRANSPORTS,
)
# The wire formats of each transport (core/wire.py); the second one is used under a foreign ASGI server.
WIRES: Final = {"websocket": ("frame", "text"), "sse": ("chunk", "block"), "poll": ("element",)}
LATENCY_BY_WIRE: Final = {wire: LATENCY[transport] for transport, wires in WIRES.items() for wire in wires}
PUBLISHED: Final = _counters("gateway_published_total", "Events by POST /publish", "outcome", ("recorded", "live_only", "refused"))

BEHIND: Final = _gauge("gateway_behind", "Clients that read from the log at this moment")
OLDEST_BEHIND: Final = _gauge(
    "gateway_behind_oldest_seconds", "How long the client that has been reading from the log the longest has done so", "max"
)
TIME_BEHIND: Final = _histogram(
    "gateway_behind_seconds", "Time from falling behind, from connecting or from having room again until the client was live", _SLOW
)
READS: Final = _counter("gateway_log_reads_total", "Reads of a channel's log")
SHARED_READS: Final = _counter("gateway_log_reads_shared_total", "Reads of a channel's log that were saved by sharing another client's")
GAPS: Final = _counters("gateway_gaps_total", "Gap notices to clients", "transport", TRANSPORTS)
DUPLICATES: Final = _counters(
    "gateway_duplicates_total", "Events that came by log and by announcement, and were written once", "transport", TRANSPORTS
)

LOOP_LAG: Final = _histogram("gateway_loop_lag_seconds", "How late the event loop was, once a second", _FAST)
LOOP_STALLED: Final = _counter(
    "gateway_loop_stalled_seconds_total", "Time for which the event loop stood still, counting stalls of 0.1 s and more"
)
ROUND_TRIP: Final = _histogram(
    "gateway_redis_round_trip_seconds", "Time for a probe to go through Redis and come back, once a second", _FAST
)
PROBE_AGE: Final = _gauge("gateway_probe_age_seconds", "Time since the last probe came back from Redis", "max")
REDIS_CONNECTS: Final = _counter("gateway_redis_connects_total", "Pub/sub connections made; usually one by each worker")
DRAINING: Final = _gauge("gateway_draining", "Whether the process, or one of several workers, is shutting down", "max")


def refused(error: errors.GatewayError) -> None:
    """Count a request, a connection or a command that was refused."""
    REFUSALS[REASONS[type(error)]].value += 1


def ended(code: int) -> None:
    """Count a stream that the gateway has ended with this close code."""
    GOODBYES[str(code)].value += 1
