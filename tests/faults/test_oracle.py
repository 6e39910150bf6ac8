"""The oracle itself: it reports each kind of fault, and none where there is none."""

from __future__ import annotations

import pytest

from tests.faults.oracle import ClientLog, Ledger, Line, judge


def ledger_of(*ids: int, label: str | None = None) -> Ledger:
    ledger = Ledger()
    for id in ids:
        ledger.begin("a", label).acknowledge(id)
    return ledger


def log_of(*lines: int | str, begin: int = 0, publications: dict[int, int] | None = None) -> ClientLog:
    """A client's log on channel ``a``.

    Args:
        lines: ids of events, and ``gap``
        begin: the client's first cursor
        publications: the number of the publication of each id; unless given, id 10 is of publication 0, id 20 of 1, and so on
    """
    log = ClientLog("c", frozenset({"a"}), {"a": begin})
    for i, line in enumerate(lines):
        if isinstance(line, str):
            log.lines.append(Line(float(i) + 1e9, "gap", "a"))
        else:
            log.lines.append(Line(float(i) + 1e9, "event", "a", line, (publications or {}).get(line, line // 10 - 1)))
    return log


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((10, 20, 30), ""),
        ((10, 30), "L1"),
        ((10, 20), "L1"),
        ((10, "gap", 30), ""),
        ((10, 30, "gap"), "L1"),
        (("gap", 10, 20, 30), "nothing was missing"),
        ((10, 20, 30, "gap"), "nothing was missing"),
        ((10, 20, 20, 30), "L2"),
        ((10, 30, 20), "L3"),
        ((10, 20, 30, 40), "nobody published"),
    ],
)
def test_each_kind_of_fault_is_reported(lines: tuple[int | str, ...], expected: str) -> None:
    verdict = judge(ledger_of(10, 20, 30), [log_of(*lines)])

    assert bool(verdict.faults) == bool(expected)
    assert not expected or any(expected in fault for fault in verdict.faults)


def test_events_before_the_first_cursor_are_not_missing() -> None:
    assert not judge(ledger_of(10, 20, 30), [log_of(30, begin=20)]).faults


def test_an_event_of_another_channel_is_a_leak() -> None:
    ledger = ledger_of(10)
    ledger.begin("b").acknowledge(20)
    log = log_of(10)
    log.lines.append(Line(1.0, "event", "b", 20, 1))

    assert "L6" in judge(ledger, [log]).faults[0]


def test_a_refused_event_must_not_arrive() -> None:
    ledger = ledger_of(10)
    ledger.begin("a").refuse()

    assert "L4" in judge(ledger, [log_of(10, 20)]).faults[0]


def test_an_event_of_unknown_outcome_arrives_with_one_id_or_not_at_all() -> None:
    ledger = ledger_of(10)
    ledger.begin("a")

    assert not judge(ledger, [log_of(10), log_of(10, 20)]).faults
    assert "L4" in judge(ledger, [log_of(10, 20), log_of(10, 25, publications={10: 0, 25: 1})]).faults[0]


def test_an_event_replaced_by_its_successor_is_not_missing_but_the_last_one_is() -> None:
    ledger = ledger_of(10, 20, 30, label="progress")

    assert not judge(ledger, [log_of(30)]).faults
    assert "L1" in judge(ledger, [log_of(10)]).faults[0]


def test_after_a_loss_of_data_each_client_may_get_one_gap_where_nothing_is_missing() -> None:
    ledger = ledger_of(10, 20)
    ledger.may_lose()

    assert not judge(ledger, [log_of(10, "gap", 20)]).faults
    assert "nothing was missing" in judge(ledger, [log_of("gap", 10, "gap", 20)]).faults[0]


def test_a_gap_of_a_poll_covers_any_place_in_its_answer() -> None:
    log = log_of("gap", 10, 30)
    for line in log.lines:
        line.answer = 1

    assert not judge(ledger_of(10, 20, 30), [log]).faults
    assert "nothing was missing" in judge(ledger_of(10, 30), [log_of("gap", 10, 30, publications={10: 0, 30: 1})]).faults[0]


def test_a_fault_is_shown_with_the_ledger_and_the_log_around_it() -> None:
    fault = judge(ledger_of(10, 20, 30), [log_of(10, 30)]).faults[0]

    assert "publication 1 on a: acknowledged 20" in fault
    assert "event a 30" in fault
