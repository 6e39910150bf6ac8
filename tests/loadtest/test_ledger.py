from __future__ import annotations

from loadtest import ledger as module
from loadtest.ledger import Ledger


def published(*events: tuple[int, str | None]) -> Ledger:
    """A ledger of these ids and labels."""
    ledger = Ledger("jobs:1")
    for id, label in events:
        ledger.begin(label)
        ledger.acknowledge(id, label)
    return ledger


def test_what_lies_between_two_ids_is_missing() -> None:
    ledger = published((1, None), (2, None), (3, None), (4, None))

    assert ledger.missing(1, 4) == 2
    assert ledger.missing(4, 100) == 0
    assert ledger.last == 4


def test_an_event_whose_place_was_taken_is_not_missing() -> None:
    ledger = published((1, None), (2, "progress"), (3, "progress"), (4, None))

    assert ledger.missing(0, 100) == 3


def test_an_event_whose_place_may_have_been_taken_by_one_of_unknown_outcome_is_not_missing() -> None:
    ledger = published((1, "progress"))
    ledger.begin("progress")

    assert ledger.missing(0, 100) == 0


def test_another_label_takes_nobodys_place() -> None:
    ledger = published((1, "progress"), (2, "log"), (3, "progress"))

    assert ledger.missing(0, 100) == 3


def test_it_forgets_what_no_log_holds() -> None:
    ledger = published(*((id, None) for id in range(1, 2 * module.REMEMBERED + 2)))

    assert ledger.missing(0, 2**62) == module.REMEMBERED + 1
