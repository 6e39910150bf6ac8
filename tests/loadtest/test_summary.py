from __future__ import annotations

from dataclasses import dataclass

from loadtest.summary import faults, summary


@dataclass
class Entry:
    """One line of locust's statistics."""

    num_requests: int
    num_failures: int = 0

    def get_response_time_percentile(self, share: float) -> float:
        return 100 * share


def test_a_run_without_losses_and_duplicates_passes() -> None:
    entries = {("connect", "WS"): Entry(2), ("delivery", "WS"): Entry(10), ("replay", "SSE"): Entry(5)}

    assert faults(entries) == []
    assert summary(entries) == (
        "Notify Gateway: 2 connects, 15 events received, 0 gaps told; WS p50 50 ms, p99 99 ms: none lost, none twice"
    )


def test_losses_and_duplicates_are_counted_over_all_transports() -> None:
    entries = {
        ("delivery", "WS"): Entry(10),
        ("loss", "WS"): Entry(2, 2),
        ("loss", "POLL"): Entry(1, 1),
        ("duplicate", "SSE"): Entry(4, 4),
    }

    assert faults(entries) == ["3 lost", "4 twice or out of order"]
    assert summary(entries).endswith("FAILED: 3 lost, 4 twice or out of order")


def test_a_run_in_which_no_event_arrived_fails() -> None:
    assert faults({("connect", "WS"): Entry(5, 5)}) == ["no event came at all, so nothing was checked"]
    assert faults({}) == []


def test_calls_that_failed_are_named() -> None:
    entries = {("delivery", "WS"): Entry(1), ("publish", "POST"): Entry(9, 3)}

    assert "3 times publish failed" in summary(entries)


def test_a_run_fails_if_a_process_ended_without_reporting() -> None:
    entries = {("delivery", "WS"): Entry(10)}

    assert faults(entries, silent=1) == ["1 of locust's processes ended without reporting"]
