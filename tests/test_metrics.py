"""The metrics: their names and labels."""

from __future__ import annotations

import re

from gateway import errors, metrics
from tests.test_errors import every


def test_every_metric_is_named_as_prometheus_wants_it_and_says_what_it_counts() -> None:
    for row in metrics.TABLE:
        assert re.fullmatch(r"gateway_[a-z_]+", row.name)
        assert row.name.endswith("_total") == (row.kind == "counter")
        assert len(row.help) > 10, row.name
    assert len({row.name for row in metrics.TABLE}) == len(metrics.TABLE)


def test_no_label_takes_values_that_come_from_outside() -> None:
    labels = {row.label: set(row.cells) for row in metrics.TABLE if row.label}

    assert set(labels) == {"transport", "kind", "reason", "code", "outcome"}
    assert sum(len(row.cells) for row in metrics.TABLE) < 120


def test_each_error_and_its_close_code_has_a_counter() -> None:
    for kind in every(errors.GatewayError):
        assert metrics.REASONS[kind] in metrics.REFUSALS
        assert str(kind.close_code) in metrics.GOODBYES
    assert {str(code) for code in (errors.DONE, errors.GOING_AWAY, errors.RESTART, errors.OVERLOADED, errors.STALLED)} <= set(metrics.CODES)


def test_a_histogram_counts_each_value_up_to_its_bound() -> None:
    cell = metrics.Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        cell.observe(value)

    assert cell.read() == [2, 1, 1, 10.0]
