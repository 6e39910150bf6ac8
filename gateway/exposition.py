"""Exposition: what all workers have counted, for Prometheus.

With several workers, whichever is asked answers for all: each saves its figures once a second in a folder that they share. What a
worker has counted stays in the sums after its death, because a counter must not fall: Prometheus would compute wrong rates. The
supervisor adds the figures of dead workers up in one file, because in a year there may be thousands of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from gateway import metrics

FOLDER: Final = "_GATEWAY_FIGURES"  # the environment variable that tells a worker where the folder is
_OWN: Final = f"{os.getpid()}-{os.urandom(4).hex()}.json"  # this worker's file; process ids alone are used again
_DEAD: Final = "dead.json"  # the sums of workers that have died, and the names of the files that were added last
_REMEMBERED: Final = 64  # of these names, for somebody who has read such a file just before it was added

Figures = Mapping[str, Mapping[str, list[float]]]
"""By the names of metrics and the values of their labels: what ``read`` of each series returns."""


def figures() -> dict[str, dict[str, list[float]]]:
    """What this process has counted."""
    return {row.name: {value: cell.read() for value, cell in row.cells.items()} for row in metrics.TABLE}


def save() -> None:
    """Save the figures of this worker for the others, if there are any."""
    if folder := _folder():
        with suppress(OSError):  # a full disk must not stop the delivery of events
            _write(folder / _OWN, figures())


def add_up_dead(living: Collection[int]) -> None:
    """Add the figures of workers that have died to the sums of the dead, and remove their files. For the supervisor only.

    Args:
        living: the process ids of all other workers
    """
    folder = _folder()
    if folder is not None:
        with suppress(OSError):  # then they are added later
            _add_up_dead(folder, living)


def _add_up_dead(folder: Path, living: Collection[int]) -> None:
    dead = [path for path in _files(folder) if path.name != _DEAD and _pid(path) not in living]
    if not dead:
        return
    before = _read(folder / _DEAD)
    sums = {row.name: {value: [0.0] * len(cell.read()) for value, cell in row.cells.items()} for row in metrics.TABLE}
    for found in (before.get("figures", {}), *map(_read, dead)):
        _add(sums, found, running=False)
    names = [*before.get("names", ()), *(path.name for path in dead)][-_REMEMBERED:]
    _write(folder / _DEAD, {"figures": sums, "names": names})
    for path in dead:
        path.unlink()


def _write(path: Path, value: object) -> None:
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").replace(path)


def _files(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):  # somebody has cleaned up the folder for temporary files
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    return []


def _read(path: Path) -> dict[str, Any]:
    # Another error is raised, as where no file can be opened: without these figures counters would fall.
    with suppress(FileNotFoundError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {}


def _folder() -> Path | None:
    """The folder of the workers' files; ``None`` if there is a single process."""
    return Path(folder) if (folder := os.environ.get(FOLDER)) else None


def _pid(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _others() -> Iterator[tuple[bool, Figures]]:
    """The figures that other workers have saved, and whether the worker is still running."""
    folder = _folder()
    if folder is None:
        return
    found = {path: _read(path) for path in _files(folder) if path.name not in (_OWN, _DEAD)}
    # Read last: a file that was added to the sums meanwhile has been read already, and must not count twice.
    dead = _read(folder / _DEAD)
    yield False, dead.get("figures", {})
    for path, others in found.items():
        if path.name not in dead.get("names", ()):
            yield _is_running(_pid(path)), others


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # there is none, or by now its id is that of another user's process
        return False
    return True


def _gather() -> Figures:
    """The figures of all workers. Gauges of workers that have died do not count."""
    sums = figures()
    for running, others in _others():
        _add(sums, others, running=running)
    return sums


def _add(sums: dict[str, dict[str, list[float]]], others: Figures, *, running: bool) -> None:
    for row in metrics.TABLE:
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
        for row in metrics.TABLE:
            labels = [row.label] if row.label else []
            family = _FAMILIES[row.kind](row.name, row.help, labels=labels)
            for value, numbers in sums[row.name].items():
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric([value][: len(labels)], _buckets(row.bounds, numbers), numbers[-1])
                else:
                    family.add_metric([value][: len(labels)], numbers[0])
            yield family


_FAMILIES: Final[dict[metrics.Kind, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]]] = {
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


def render() -> bytes:
    """The figures in Prometheus's text format. With a single process, also its CPU time and memory.

    Raises:
        OSError: if what the other workers have saved cannot be read.
    """
    save()  # a counter that was read once must not fall if this worker dies before it saves again
    return generate_latest(_of_all_workers if _folder() else REGISTRY)
