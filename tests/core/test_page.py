"""Pages: which events a reader at any cursor gets from a reply of Redis, and where it gets a gap notice."""

from __future__ import annotations

import pytest

from gateway.core.event import Event, Published
from gateway.core.page import EARLIEST, MAX_FLOORS, Answer, Entry, Item, Page, Since, end_of_turn, has_gap, make_page

T = EARLIEST + 1_000_000  # ids are times; the tests count from here
GAP = "gap"


def entry(id: int, before: int | None, *, poison: bool = False, final: bool = False) -> Entry:
    """An entry with its ids counted from T; ``None`` for none before."""
    previous = 0 if before is None else T + before
    return Entry(T + id, previous, None if poison else Event("c", T + id, previous, Published("t", final=final)))


def answer(
    *entries: Entry,
    newest: int | None = None,
    clock: int = 100,
    floor: int | tuple[int, ...] = (),
    more: bool = False,
    following: tuple[int, int] | None = None,
    final: bool = False,
) -> Answer:
    last = T + newest if newest is not None else entries[-1].id if entries and not more else 0
    floors = (floor,) if isinstance(floor, int) else floor
    after = None if following is None else (T + following[0], T + following[1])
    return Answer(T + clock, tuple(T + floor for floor in floors), last, final, more, list(entries), after)


def read(since: Since, *entries: Entry, **rest) -> Page:
    return make_page(since, answer(*entries, **rest))


def told(page: Page) -> list[int | str]:
    return [GAP if item.event is None else item.event.id - T for item in page.items]


# Never a gap where nothing is missing


def test_a_log_that_follows_on_the_cursor_has_no_gap() -> None:
    page = read(T + 10, entry(20, 10), entry(30, 20))

    assert told(page) == [20, 30]
    assert (page.position - T, page.horizon - T, page.complete) == (30, 100, True)


def test_a_reader_that_has_everything_gets_nothing() -> None:
    page = read(T + 30, newest=30)

    assert told(page) == []
    assert (page.position - T, page.horizon - T, page.complete) == (30, 100, True)
    assert told(read(T + 100, newest=100)) == []


def test_a_cursor_that_another_channel_gave_gets_no_gap() -> None:
    assert told(read(T + 25, entry(30, 20))) == [30]
    assert told(read(T + 35, newest=30)) == []


def test_a_channel_that_never_had_an_event_has_no_gap() -> None:
    page = read(T + 25)

    assert told(page) == []
    assert page.position == T + 25


def test_what_was_collapsed_is_not_missing() -> None:
    # 20 and 25 were progress that 30 has taken the place of.
    assert told(read(T + 10, entry(30, 10))) == [30]
    assert told(read(T + 20, entry(30, 10))) == [30]


def test_a_trimmed_event_that_the_reader_has_is_not_missing() -> None:
    assert told(read(T + 20, entry(30, 20))) == [30]


def test_a_reader_of_the_whole_log_gets_no_gap_if_nothing_was_trimmed() -> None:
    assert told(read(0, entry(10, None), entry(20, 10))) == [10, 20]
    assert told(read(0)) == []


def test_an_invented_cursor_gets_no_gap_for_lost_data() -> None:
    assert told(read(5, entry(60, None), floor=50)) == [60]
    assert told(read(0, floor=50)) == []


def test_a_reader_at_the_floor_or_above_gets_no_gap() -> None:
    assert told(read(T + 50, entry(60, None), floor=50)) == [60]
    assert told(read(T + 55, entry(60, None), floor=50)) == [60]


# A gap where something is


def test_the_example_at_the_top_of_the_module_is_right() -> None:
    page = read(T + 10, entry(20, 10), entry(40, 30), entry(60, 40), floor=50, newest=70)

    items = [(GAP if item.event is None else item.event.id - T, item.id - T, item.position - T) for item in page.items]
    assert items == [(20, 20, 20), (GAP, 21, 30), (40, 40, 40), (GAP, 41, 50), (60, 60, 60), (GAP, 61, 70)]


def test_what_was_trimmed_is_a_gap() -> None:
    page = read(T + 10, entry(30, 20), entry(40, 30))

    assert told(page) == [GAP, 30, 40]


def test_a_reader_of_the_whole_log_gets_a_gap_for_what_was_trimmed() -> None:
    assert told(read(0, entry(30, 20))) == [GAP, 30]


def test_a_log_that_expired_is_a_gap_once() -> None:
    page = read(T + 10, newest=30)

    assert told(page) == [GAP]
    assert page.position == T + 30  # and never told again


def test_a_log_that_expired_is_a_gap_before_what_came_since() -> None:
    assert told(read(T + 10, entry(40, 30))) == [GAP, 40]


def test_a_reader_of_the_whole_log_gets_a_gap_if_it_expired() -> None:
    assert told(read(0, newest=30)) == [GAP]


def test_a_newest_entry_that_is_gone_is_a_gap() -> None:
    page = read(T + 10, entry(20, 10), newest=30)

    assert told(page) == [20, GAP]
    assert page.position == T + 30


def test_an_entry_that_is_gone_from_the_middle_is_a_gap() -> None:
    assert told(read(T + 10, entry(20, 10), entry(40, 30))) == [20, GAP, 40]


def test_a_floor_above_the_cursor_is_a_gap() -> None:
    page = read(T + 10, newest=10, floor=50)

    assert told(page) == [GAP]
    assert page.position == T + 50


def test_a_gap_stands_where_its_floor_lies() -> None:
    page = read(T + 10, entry(20, 10), entry(60, 20), floor=50)

    assert told(page) == [20, GAP, 60]
    assert (page.items[1].id - T, page.items[1].position - T) == (21, 50)


def test_each_loss_has_a_gap_in_its_place() -> None:
    entries = [entry(20, 10), entry(40, 20), entry(45, 40), entry(60, 45)]

    assert told(read(T + 10, *entries, floor=(5, 30, 50, 70))) == [20, GAP, 40, 45, GAP, 60, GAP]
    assert told(read(T + 35, *entries[1:], floor=(5, 30, 50, 70))) == [40, 45, GAP, 60, GAP]
    assert told(read(T + 70, floor=(5, 30, 50, 70))) == []


def test_several_losses_between_two_events_are_one_gap_up_to_the_last() -> None:
    page = read(T + 10, entry(60, 10), floor=(20, 30, 40))

    assert told(page) == [GAP, 60]
    assert page.items[0].position == T + 40


def test_a_cursor_below_the_oldest_known_floor_gets_a_gap_at_once() -> None:
    floors = tuple(range(50, 50 + MAX_FLOORS))
    page = read(T + 10, entry(20, 10), entry(99, 20), floor=floors)

    assert told(page) == [GAP, 20, GAP, 99]
    assert page.items[0].position < T + 20
    assert told(read(T + 10, entry(20, 10), entry(99, 20), floor=floors[1:])) == [20, GAP, 99]


def test_a_cursor_at_the_oldest_known_floor_gets_no_gap_for_older_ones() -> None:
    floors = (50, *range(70, 70 + MAX_FLOORS - 1))

    assert told(read(T + 50, entry(60, 50), floor=floors, more=True)) == [60]


def test_the_gap_of_a_floor_on_the_next_page_comes_with_that_page() -> None:
    assert told(read(T + 10, entry(20, 10), newest=60, floor=50, more=True)) == [20]
    assert told(read(T + 20, entry(60, 20), floor=50)) == [GAP, 60]


def test_a_reader_of_the_whole_log_gets_the_gap_where_the_floor_lies() -> None:
    assert told(read(0, entry(20, None), entry(30, 20), entry(60, 30), floor=50)) == [20, 30, GAP, 60]
    assert told(read(0, entry(20, None), floor=50)) == [20, GAP]


def test_a_reader_past_the_floor_gets_no_second_gap() -> None:
    page = read(T + 10, entry(20, 10), floor=50)

    assert told(page) == [20, GAP]
    assert page.position == T + 50
    assert told(read(page.position, entry(60, 20), floor=50)) == [60]


def test_a_reader_of_an_empty_channel_stands_at_the_floor() -> None:
    assert read(0, floor=50).position == T + 50


def test_what_was_trimmed_and_lost_is_one_gap() -> None:
    assert told(read(T + 10, entry(60, 30), floor=50)) == [GAP, 60]


def test_a_cursor_from_the_future_gets_a_gap_because_the_newest_data_was_lost() -> None:
    page = read(T + 200, newest=30, clock=100)

    assert told(page) == [GAP]
    assert page.position == T + 100


def test_a_server_that_knows_nothing_at_all_gives_a_gap() -> None:
    page = make_page(T + 10, Answer(0, (), 0, final=False, more=False, entries=[]))

    assert told(page) == [GAP]
    assert page.position == T + 10  # 0 would say that there is nothing to miss, when the next events are lost too


def test_a_gap_stands_before_any_event_of_another_channel_that_is_newer() -> None:
    page = read(T + 10, entry(60, 50))

    # Were it told at 60, an event of another channel at 55 would take the client's one cursor over what is missing here.
    assert page.items[0].id == T + 11
    assert page.items[0].position == T + 50


# Pages that are not the last


def test_a_page_that_is_not_the_last_ends_where_its_entries_do() -> None:
    page = read(T + 10, entry(20, 10), entry(30, 20), newest=90, more=True, final=True)

    assert told(page) == [20, 30]
    assert (page.position - T, page.horizon - T, page.complete, page.final) == (30, 30, False, False)


def test_a_page_that_is_not_the_last_reaches_to_what_follows() -> None:
    page = read(T + 10, entry(20, 10), newest=90, more=True, following=(60, 20))

    assert (page.position - T, page.horizon - T, page.complete) == (20, 59, False)


@pytest.mark.parametrize(
    ("following", "floor"), [((60, 50), ()), ((60, 20), 40), ((120, 20), ()), ((15, 10), ())], ids=["a hole", "a floor", "unknown", "junk"]
)
def test_it_reaches_no_further_than_its_entries_where_what_follows_may_be_told_as_a_gap(
    following: tuple[int, int], floor: int | tuple[int, ...]
) -> None:
    page = read(T + 10, entry(20, 10), newest=90, more=True, following=following, floor=floor)

    assert (page.position - T, page.horizon - T) == (20, 20)


def test_events_on_the_next_page_are_not_taken_for_a_gap() -> None:
    assert told(read(0, entry(20, None), newest=90, floor=50, more=True)) == [20]
    assert told(read(T + 50, entry(60, 50), newest=90, more=True)) == [60]


@pytest.mark.parametrize(("most", "end"), [(1, 10), (90, 20), (1_000, None)])
def test_a_turn_ends_before_the_next_event_once_there_is_enough(most: int, end: int | None) -> None:
    items = [Item(id, None if id % 10 else Event("c", id, 0, Published("t")), id) for id in (5, 10, 11, 20, 21, 30)]

    assert end_of_turn(items, most) == end


def test_a_gap_that_was_delivered_is_none_beyond_the_horizon() -> None:
    page = make_page(T, Answer(T + 50, (), T + 20, final=False, more=False, entries=[]))

    assert [has_gap(page, T), has_gap(page, T + 1)] == [True, False]


# Poison


def test_a_poison_entry_is_stepped_over_and_its_place_counts() -> None:
    page = read(T + 10, entry(20, 10, poison=True), entry(30, 20))

    assert told(page) == [30]
    assert read(T + 10, entry(20, 10, poison=True)).position == T + 20


def test_entries_out_of_order_or_from_the_future_are_skipped() -> None:
    page = read(T + 10, entry(20, 10), entry(15, 10), entry(20, 10), entry(500, 20), entry(30, 20))

    assert told(page) == [20, 30]
    assert page.position == T + 30


def test_an_entry_that_claims_to_follow_on_itself_does_not_run_ahead() -> None:
    page = read(T + 10, entry(20, 90))

    assert told(page) == [GAP, 20]
    assert page.items[0].position < T + 20


# Without a cursor


def test_since_last_gets_the_newest_event() -> None:
    page = read("last", entry(30, 20), final=True)

    assert told(page) == [30]
    assert (page.position - T, page.final) == (30, True)


@pytest.mark.parametrize("since", ["last", "now"])
def test_before_the_first_event_a_reader_stands_at_the_clock(since: Since) -> None:
    page = read(since)

    assert told(page) == []
    assert page.position == T + 100  # all that comes will be above it, and what is lost before it comes can be told


@pytest.mark.parametrize("since", ["last", "now"])
def test_a_newest_event_that_has_expired_is_no_gap_without_a_cursor(since: Since) -> None:
    page = read(since, newest=30)

    assert told(page) == []
    assert page.position == T + 30


@pytest.mark.parametrize("since", ["last", "now"])
def test_since_last_and_now_get_no_gap_for_lost_events(since: Since) -> None:
    page = read(since, newest=30, floor=50)

    assert told(page) == []
    assert page.position == T + 50


def test_since_now_and_last_get_no_old_event_even_if_the_newest_id_is_gone() -> None:
    assert read("now", floor=50).position == T + 100  # and not the floor: there may be events above it
    assert read("last", floor=50).position == T + 50


def test_a_poison_entry_as_the_newest_is_stepped_over() -> None:
    page = read("last", entry(30, 20, poison=True))

    assert told(page) == []
    assert page.position == T + 30


# Its end and its size


def test_a_page_says_whether_the_newest_event_is_final() -> None:
    assert read(T + 10, entry(20, 10, final=True), final=True).final
    assert read("now", newest=20, final=True).final
    assert not read(T + 10, entry(20, 10)).final


def test_the_size_is_that_of_the_json() -> None:
    page = read(T + 10, entry(30, 20), entry(40, 30, poison=True))

    assert page.items[1].event is not None
    assert page.size == len(page.items[1].event.json)
