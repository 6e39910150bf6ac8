"""Where a client stands on a channel, and how far a page carries it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.cursor import Cursor, has_missed
from gateway.core.event import Event, parse_published
from gateway.core.hub import Hub
from gateway.core.page import Item, Page, Since
from gateway.core.subscription import Subscription
from gateway.core.wire import TEXT


def nothing(*_: Any) -> None:
    pass


def cursor_at(since: Since, heard: int = 0) -> Cursor:
    """A cursor on a channel whose announcements were received up to this id."""
    subscription = Subscription(wire=TEXT, write=nothing, on_behind=nothing, on_done=nothing, on_failed=nothing)
    cursor = Hub().follow(subscription, "a", since)
    cursor.channel.heard = heard
    return cursor


def page(*ids: int, **fields: Any) -> Page:
    items = [Item(id, Event("a", id, 0, parse_published(b"1")), id) for id in ids]
    end = ids[-1] if ids else 0
    plain = {"position": end, "horizon": end, "complete": True, "final": False, "size": 0, "clock": end}
    return Page(items, **(plain | fields))


@pytest.mark.parametrize("since", [0, 7, "last", "now"])
def test_it_is_read_from_where_the_client_began(since: Since) -> None:
    assert cursor_at(since).start == since


@pytest.mark.parametrize(
    ("came", "since", "goes_on"),
    [("last", 7, False), ("last", "last", True), ("last", "now", True), (0, "last", True), ("now", "now", True), ("now", "last", False)],
)
def test_a_client_that_asks_again_without_a_cursor_goes_on_from_where_it_stands(came: Since, since: Since, *, goes_on: bool) -> None:
    cursor = cursor_at(came)
    cursor.advance(page(20), 20, finished=True)

    assert cursor.goes_on(since) is goes_on


def test_a_client_that_asks_again_before_anything_was_read_begins_where_it_asked_last() -> None:
    assert not any(cursor_at("last").goes_on(since) for since in ("now", "last", 7))


def test_a_page_reaches_to_what_was_announced_anywhere_while_nothing_was_on_its_channel() -> None:
    assert cursor_at(0, heard=20).horizon(page(10, 20), 50) == 50
    assert cursor_at(0, heard=30).horizon(page(10, 20), 50) == 20
    assert cursor_at(0, heard=30).horizon(page(10, 20, heard=30), 50) == 50
    assert cursor_at(0, heard=20).horizon(page(10, 20, complete=False), 50) == 20


def test_it_moves_as_far_as_all_pages_reach() -> None:
    cursor = cursor_at("last")

    cursor.advance(page(10, 20, final=True), 15, finished=False)

    assert (cursor.start, cursor.unread, cursor.done, cursor.covered) == (15, True, False, 0)


def test_where_it_begins_is_settled_though_no_page_reaches_to_its_first_item() -> None:
    last, now = cursor_at("last"), cursor_at("now")

    last.advance(page(20), 5, finished=False)
    now.advance(page(position=30, horizon=30, clock=30), 5, finished=False)

    assert (last.start, now.start) == (19, 30)
    assert last.unread
    assert now.unread


def test_a_cursor_stays_while_no_page_reaches_to_its_first_item() -> None:
    cursor = cursor_at(7)

    cursor.advance(page(10, 20), 5, finished=False)

    assert (cursor.start, cursor.unread) == (7, True)


def test_a_page_without_items_moves_it_too_while_other_channels_are_still_read() -> None:
    cursor = cursor_at(7)

    cursor.advance(page(position=20, horizon=20, clock=20), 20, finished=False)

    assert cursor.start == 20


def test_what_is_given_at_the_horizon_itself_moves_it() -> None:
    cursor = cursor_at(7)

    cursor.advance(page(10, 20), 10, finished=False)

    assert cursor.start == 10


def test_it_never_moves_back() -> None:
    cursor = cursor_at(40)

    cursor.advance(page(position=40), 20, finished=True)

    assert cursor.start == 40


def test_with_the_whole_page_it_has_what_was_announced_before_the_read() -> None:
    cursor = cursor_at("last", heard=30)

    cursor.advance(page(10, 20, final=True, heard=30), 20, finished=True)

    assert (cursor.start, cursor.unread, cursor.done) == (20, False, True)
    assert not has_missed(cursor)


def test_what_was_announced_after_the_read_is_missed() -> None:
    cursor = cursor_at("last", heard=40)

    cursor.advance(page(10, 20, heard=30), 20, finished=True)

    assert has_missed(cursor)
