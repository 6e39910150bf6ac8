"""What all workers have counted, summed up, and in Prometheus's format."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import exposition, metrics
from tests.support.figures import parse


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(exposition.FOLDER, str(tmp_path))
    return tmp_path


def saved(folder: Path, pid: int | str, **changed: dict[str, list[float]]) -> None:
    """Write the file in which a worker of this process id keeps its metrics."""
    nothing = {name: {value: [0.0] * len(numbers) for value, numbers in cells.items()} for name, cells in exposition.figures().items()}
    (folder / f"{pid}.json").write_text(json.dumps(nothing | changed))


def buckets(text: bytes, name: str) -> list[float]:
    """The cumulative counts of a histogram's buckets, in their order."""
    families = text_string_to_metric_families(text.decode())
    return [sample.value for family in families for sample in family.samples if sample.name == f"{name}_bucket"]


def dead() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_the_metrics_of_several_workers_are_summed_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parse(exposition.render().decode())
    length = len(metrics.ROUND_TRIP.read())
    monkeypatch.setattr(metrics.DRAINING, "value", 1.0)
    saved(
        folder,
        os.getppid(),
        gateway_stalled_total={"": [3.0]},
        gateway_connections={"sse": [5.0]},
        gateway_probe_age_seconds={"": [9e9]},
        gateway_draining={"": [1.0]},
        gateway_redis_round_trip_seconds={"": [2.0, 1.0] + [0.0] * (length - 3) + [0.25]},
    )

    after = parse(exposition.render().decode())

    assert after["gateway_stalled_total"] - before["gateway_stalled_total"] == 3
    assert after["gateway_connections{sse}"] - before["gateway_connections{sse}"] == 5
    assert after["gateway_probe_age_seconds"] == 9e9
    assert after["gateway_draining"] == 1  # however many of the workers drain
    assert after["gateway_redis_round_trip_seconds_count"] - before["gateway_redis_round_trip_seconds_count"] == 3
    assert "process_cpu_seconds_total" not in after


def test_a_bucket_counts_all_values_up_to_its_bound(folder: Path) -> None:
    length, name = len(metrics.ROUND_TRIP.read()), "gateway_redis_round_trip_seconds"
    before = buckets(exposition.render(), name)
    saved(folder, os.getppid(), **{name: {"": [2.0, 1.0] + [0.0] * (length - 4) + [1.0, 99.0]}})

    after = buckets(exposition.render(), name)

    assert [now - then for now, then in zip(after, before, strict=True)] == [2, *[3] * (length - 3), 4]


@pytest.mark.parametrize("id_is_taken", [False, True])
def test_the_counters_of_a_dead_worker_stay_and_its_gauges_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch, id_is_taken: bool) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError  # as for another user's process

    if id_is_taken:
        monkeypatch.setattr(os, "kill", refuse)
    before = parse(exposition.render().decode())
    saved(folder, dead(), gateway_stalled_total={"": [3.0]}, gateway_connections={"sse": [5.0]}, gateway_probe_age_seconds={"": [9e9]})

    after = parse(exposition.render().decode())

    assert after["gateway_stalled_total"] - before["gateway_stalled_total"] == 3
    assert after["gateway_connections{sse}"] == before["gateway_connections{sse}"]
    assert after["gateway_probe_age_seconds"] < 9e9


def test_the_counters_of_thousands_of_dead_workers_are_kept_in_one_file(folder: Path) -> None:
    before = parse(exposition.render().decode())
    for _ in range(2):
        for pid in range(900_000_000, 900_000_100):
            saved(folder, pid, gateway_stalled_total={"": [3.0]}, gateway_connections={"sse": [5.0]})
        saved(folder, os.getppid(), gateway_stalled_total={"": [7.0]}, gateway_connections={"sse": [2.0]})

        exposition.add_up_dead([os.getpid(), os.getppid()])

    after = parse(exposition.render().decode())
    assert len(list(folder.iterdir())) == 3  # the sums, this process and the other one
    assert after["gateway_stalled_total"] - before["gateway_stalled_total"] == 607
    assert after["gateway_connections{sse}"] - before["gateway_connections{sse}"] == 2


def test_a_worker_whose_file_is_added_to_the_sums_while_it_is_read_counts_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parse(exposition.render().decode())
    saved(folder, dead(), gateway_stalled_total={"": [3.0]})
    read = exposition._read

    def read_slowly(path: Path) -> dict[str, Any]:
        found = read(path)
        if path.name[0].isdigit():
            monkeypatch.setattr(exposition, "_read", read)
            exposition.add_up_dead([os.getpid()])
        return found

    monkeypatch.setattr(exposition, "_read", read_slowly)
    after = parse(exposition.render().decode())

    assert after["gateway_stalled_total"] - before["gateway_stalled_total"] == 3


def test_workers_that_have_the_same_process_id_one_after_the_other_count_both(folder: Path) -> None:
    before = parse(exposition.render().decode())
    saved(folder, f"{os.getpid()}-0", gateway_stalled_total={"": [3.0]})

    after = parse(exposition.render().decode())

    assert after["gateway_stalled_total"] - before["gateway_stalled_total"] == 3


def test_figures_of_another_version_whose_buckets_or_labels_differ_are_left_out(folder: Path) -> None:
    other = {"gateway_redis_round_trip_seconds": {"": [1.0, 2.0]}, "gateway_events_out_total": {"carrier pigeon": [1.0]}}
    saved(folder, os.getppid(), **other, gateway_stalled_total={"": [3.0]})
    exposition.add_up_dead([os.getpid()])

    assert b"gateway_stalled_total" in exposition.render()


def test_a_full_disk_keeps_the_files_of_dead_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    saved(folder, dead(), gateway_stalled_total={"": [3.0]})
    monkeypatch.setattr(exposition, "_write", full)
    exposition.add_up_dead([os.getpid()])

    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("call", ["iterdir", "read_text"])
def test_while_no_file_can_be_opened_no_dead_worker_is_forgotten_and_no_sum_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    saved(folder, f"{dead()}-0", gateway_stalled_total={"": [3.0]})
    before = parse(exposition.render().decode())
    with monkeypatch.context() as failing:
        failing.setattr(Path, call, fail)
        exposition.add_up_dead([os.getpid()])
        with pytest.raises(OSError, match="Too many open files"):
            exposition.render()

    assert parse(exposition.render().decode())["gateway_stalled_total"] == before["gateway_stalled_total"]


def test_a_worker_does_not_count_itself_twice_and_steps_over_half_a_file(folder: Path) -> None:
    metrics.STALLED.value += 1
    before = parse(exposition.render().decode())
    saved(folder, os.getppid(), gateway_stalled_total={"": [3.0]})
    (folder / f"{os.getppid()}.json").rename(folder / f"{os.getppid()}.new")  # being written, beside the file of a second ago
    (folder / f"{os.getppid()}.json").write_text('{"gateway_sta')

    assert parse(exposition.render().decode()) == before


def test_a_missing_folder_does_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(exposition.FOLDER, str(folder / "gone"))
    exposition.save()

    assert b"gateway_connections" in exposition.render()
