from __future__ import annotations

from loadtest import ledger as module
from loadtest.ledger import Ledger


def published(*events: tuple[int, str | None]) -> Ledger:
    """A ledger in which these ids and labels were acknowledged."""
    ledger = Ledger("jobs:1")
    for id, label in events:
        ledger.begin(label)
        ledger.acknowledge(id, label)
    return ledger


def test_the_events_between_two_ids_are_missing() -> None:
    ledger = published((1, None), (2, None), (3, None), (4, None))

    assert ledger.missing(1, 4) == 2
    assert ledger.missing(4, 100) == 0
    assert ledger.last == 4


def test_an_event_that_was_replaced_in_the_log_is_not_missing() -> None:
    ledger = published((1, None), (2, "progress"), (3, "progress"), (4, None))

    assert ledger.missing(0, 100) == 3


def test_an_event_that_may_have_been_replaced_by_one_of_unknown_outcome_is_not_missing() -> None:
    ledger = published((1, "progress"))
    ledger.begin("progress")

    assert ledger.missing(0, 100) == 0


def test_an_event_with_another_label_replaces_none() -> None:
    ledger = published((1, "progress"), (2, "log"), (3, "progress"))

    assert ledger.missing(0, 100) == 3


def test_only_the_newest_events_are_remembered() -> None:
    ledger = published(*((id, None) for id in range(1, 2 * module.REMEMBERED + 2)))

    assert ledger.missing(0, 2**62) == module.REMEMBERED + 1
