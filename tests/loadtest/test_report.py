from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.compare.report import BEGIN, END, median_row, section, table, write
from loadtest.compare.work import Row, Work


def row(name: str, us: float) -> Row:
    """A row of which only the cost of an event matters."""
    return Row(name=name, us_per_event=us, us_per_connection=100, kib_per_connection=10, p50=1, p99=2)


def test_each_round_is_compared_with_the_floor_of_the_same_round() -> None:
    ratio, median = median_row([row("a", 8), row("a", 6), row("a", 30)], [row("floor", 4), row("floor", 4), row("floor", 10)])

    assert ratio == 2
    assert median.us_per_event == 8


def test_the_table_has_a_line_for_each_server() -> None:
    ours = replace(row("Notify Gateway, SSE", 6), us_in_redis=0.3)
    lines = table([(1, row("floor", 4)), (1.5, ours)], {"floor": "c", ours.name: "1"}).splitlines()

    assert lines[2:] == [
        "| floor | 1.00 | 4.00 |  | 100 | 10.0 | 1.0 | 2.0 | c |",
        "| **Notify Gateway, SSE** | 1.50 | 6.00 | 0.30 | 100 | 10.0 | 1.0 | 2.0 | 1 |",
    ]


def test_a_server_that_is_not_installed_is_named_with_the_line_that_installs_it() -> None:
    text = section({}, {}, {"Nchan": "not installed (apt-get install it)"}, 1)

    assert "Not measured: Nchan: not installed (apt-get install it)" in text


def test_each_work_has_a_table_of_its_own() -> None:
    works = [Work(clients=2, events=1, rate=1), Work(clients=2, events=1, rate=1, rooms=2)]
    text = section({work: [(1, row("floor", 4))] for work in works}, {"floor": "c"}, {}, 1)

    assert text.count("| floor |") == 2
    assert "**2 clients in one room, 1 events, 1 a second**" in text
    assert "**2 clients in 2 rooms, 1 events, 1 a second**" in text


def test_only_the_text_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")

    write(page, "new")

    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nbehind\n"


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("by hand\n")

    with pytest.raises(ValueError, match="marks"):
        write(page, "new")

    assert page.read_text() == "by hand\n"
