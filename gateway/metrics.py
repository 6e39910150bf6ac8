"""Every metric, declared in one table.

Metrics are plain numbers in this process, because some are counted for each event, and a counter of prometheus-client costs 1 to 3 us
each time. They are handed to prometheus-client only when somebody asks for them. All values of every label are listed here, so there
are never more series than these.

With several workers, whichever is asked answers for all: each saves its figures once a second in a folder that they share. What a
worker has counted stays in the sums after its death, because a counter must not fall: Prometheus would compute wrong rates. The
supervisor adds the figures of dead workers up in one file, because in a year there may be thousands of them.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from gateway import errors

FOLDER: Final = "_GATEWAY_FIGURES"  # the environment variable that tells a worker where the folder is
_OWN: Final = f"{os.getpid()}-{os.urandom(4).hex()}.json"  # this worker's file; process ids alone are used again
_DEAD: Final = "dead.json"  # the sums of workers that have died, and the names of the files that were added last
_REMEMBERED: Final = 64  # of these names, for somebody who has read such a file just before it was added

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
CODES: Final = ("1000", "1001", "1003", "1008", "1009", "1011", "1012", "1013", "4400", "4401", "4403", "4408")

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
REFUSALS: Final = _counters("gateway_refusals_total", "Requests and connections refused", "reason", REASONS.values())
GOODBYES: Final = _counters("gateway_goodbyes_total", "Streams that the gateway ended, by close code", "code", CODES)
STALLED: Final = _counter("gateway_stalled_total", "Slow readers cut because they took no bytes")

EVENTS_IN: Final = _counters(
    "gateway_events_in_total", "Announcements heard from Redis", "kind", ("recorded", "live_only", "malformed", "unreadable_entry")
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
OLDEST_BEHIND: Final = _gauge("gateway_behind_oldest_seconds", "How long the client that has been behind the longest has been so", "max")
TIME_BEHIND: Final = _histogram("gateway_behind_seconds", "Time from falling behind, or from connecting, until the client was live", _SLOW)
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
DRAINING: Final = _gauge("gateway_draining", "Whether the process is shutting down")


def refused(error: errors.GatewayError) -> None:
    """Count a request or a connection that was refused."""
    REFUSALS[REASONS[type(error)]].value += 1


# The figures of all workers together

Figures = Mapping[str, Mapping[str, list[float]]]
"""By the names of metrics and the values of their labels: what ``read`` of each series returns."""


def figures() -> dict[str, dict[str, list[float]]]:
    """What this process has counted."""
    return {row.name: {value: cell.read() for value, cell in row.cells.items()} for row in TABLE}


def save() -> None:
    """Save the figures of this worker for the others, if there are any."""
    if folder := os.environ.get(FOLDER):
        with suppress(OSError):  # a full disk must not stop the delivery of events
            _write(Path(folder, _OWN), figures())


def add_up_dead(living: Collection[int]) -> None:
    """Add the figures of workers that have died to the sums of the dead, and remove their files. For the supervisor only.

    Args:
        living: the process ids of all other workers
    """
    folder = Path(os.environ.get(FOLDER, ""))
    dead = [path for path in _files() if path.name != _DEAD and _pid(path) not in living]
    if not dead:
        return
    before = _read(folder / _DEAD)
    sums = {row.name: {value: [0.0] * len(cell.read()) for value, cell in row.cells.items()} for row in TABLE}
    for found in (before.get("figures", {}), *map(_read, dead)):
        _add(sums, found, running=False)
    names = [*before.get("names", ()), *(path.name for path in dead)][-_REMEMBERED:]
    with suppress(OSError):  # then they are added later
        _write(folder / _DEAD, {"figures": sums, "names": names})
        for path in dead:
            path.unlink()


def _write(path: Path, value: object) -> None:
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").replace(path)


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {}


def _files() -> list[Path]:
    return list(Path(folder).glob("*.json")) if (folder := os.environ.get(FOLDER)) else []


def _pid(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _others() -> Iterator[tuple[bool, Figures]]:
    """The figures that other workers have saved, and whether the worker is still running."""
    found = {path: _read(path) for path in _files() if path.name not in (_OWN, _DEAD)}
    # Read last: a file that was added to the sums meanwhile has been read already, and must not count twice.
    dead = _read(Path(os.environ.get(FOLDER, ""), _DEAD)) if FOLDER in os.environ else {}
    yield False, dead.get("figures", {})
    for path, others in found.items():
        if path.name not in dead.get("names", ()):
            yield _is_running(_pid(path)), others


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _gather() -> Figures:
    """The figures of all workers. Gauges of workers that have died do not count."""
    sums = figures()
    for running, others in _others():
        _add(sums, others, running=running)
    return sums


def _add(sums: dict[str, dict[str, list[float]]], others: Figures, *, running: bool) -> None:
    for row in TABLE:
        if row.kind in ("sum", "max") and not running:
            continue
        for value, numbers in others.get(row.name, {}).items():
            mine = sums[row.name].get(value)
            if mine is not None and len(mine) == len(numbers):  # else another version was installed meanwhile, with other buckets
                sums[row.name][value] = [max(pair) if row.kind == "max" else sum(pair) for pair in zip(mine, numbers, strict=True)]


class _Gatherer(Collector):
    """Hands the figures to prometheus-client."""

    def collect(self) -> Iterator[Metric]:
        sums = _gather()
        for row in TABLE:
            labels = [row.label] if row.label else []
            family = _FAMILIES[row.kind](row.name, row.help, labels=labels)
            for value, numbers in sums[row.name].items():
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric([value][: len(labels)], _buckets(row.bounds, numbers), numbers[-1])
                else:
                    family.add_metric([value][: len(labels)], numbers[0])
            yield family


_FAMILIES: Final[dict[Kind, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]]] = {
    "counter": CounterMetricFamily,
    "sum": GaugeMetricFamily,
    "max": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _buckets(bounds: Sequence[float], numbers: list[float]) -> list[tuple[str, float]]:
    """A histogram's cumulative buckets, as prometheus-client wants them."""
    names = [*(str(bound) for bound in bounds), "+Inf"]
    return [(name, sum(numbers[: i + 1])) for i, name in enumerate(names)]


REGISTRY.register(_Gatherer())
_of_all_workers: Final = CollectorRegistry()
_of_all_workers.register(_Gatherer())


def exposition() -> bytes:
    """The figures in Prometheus's text format. With a single process, also its CPU time and memory."""
    save()  # a counter that was read once must not fall if this worker dies before it saves again
    return generate_latest(_of_all_workers if os.environ.get(FOLDER) else REGISTRY)
