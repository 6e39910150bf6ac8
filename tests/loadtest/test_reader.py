from __future__ import annotations

from loadtest.ledger import Ledger
from loadtest.reader import Reader


def ledger(*ids: int) -> Ledger:
    """A ledger in which these ids were acknowledged."""
    ledger = Ledger("jobs:1")
    for id in ids:
        ledger.begin()
        ledger.acknowledge(id)
    return ledger


def test_events_in_order_are_neither_duplicates_nor_lost() -> None:
    reader = Reader(ledger(1, 2, 3), 0)

    assert [reader.take(id) for id in (1, 2, 3)] == [(False, 0)] * 3
    assert reader.behind() == 0


def test_an_event_that_comes_again_is_a_duplicate() -> None:
    reader = Reader(ledger(1, 2), 0)
    reader.take(2)

    assert reader.take(2) == (True, 0)
    assert reader.take(1) == (True, 0)


def test_an_event_that_was_skipped_is_lost() -> None:
    reader = Reader(ledger(1, 2, 3, 4), 0)
    reader.take(1)

    assert reader.take(4) == (False, 2)


def test_a_gap_notice_excuses_only_the_events_right_before_the_next() -> None:
    reader = Reader(ledger(1, 2, 3, 4, 5), 0)
    reader.gap()

    assert reader.take(2) == (False, 0)
    assert reader.take(4) == (False, 1)


def test_a_gap_in_an_answer_of_several_events_covers_any_place_in_it() -> None:
    reader = Reader(ledger(1, 2, 3, 4, 5), 0)
    reader.gap()

    assert [reader.take(id, alone=False) for id in (1, 3)] == [(False, 0)] * 2
    reader.answered()
    assert reader.take(5, alone=False) == (False, 1)


def test_it_begins_where_the_gateway_says() -> None:
    reader = Reader(ledger(1, 2, 3), None)
    reader.begin(2)

    assert reader.behind() == 1
    assert reader.take(3) == (False, 0)


def test_an_event_may_arrive_before_its_acknowledgement() -> None:
    reader = Reader(ledger(1), 1)

    assert reader.take(2) == (False, 0)
