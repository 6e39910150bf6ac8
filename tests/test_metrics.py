"""The table of metrics."""

from __future__ import annotations

from prometheus_client import generate_latest

from gateway import metrics  # noqa: F401 - declares them


def test_every_metric_is_ours_and_says_what_it_counts() -> None:
    helps = [line.split(" ", 3) for line in generate_latest().decode().splitlines() if line.startswith("# HELP gateway_")]

    assert len(helps) >= 9
    assert all(len(words) == 4 and len(words[3]) > 10 for words in helps)
