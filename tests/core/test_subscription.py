"""One client: behind, reading, live."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core import subscription
from gateway.core.event import Event, parse_published
from gateway.core.hub import Hub
from gateway.core.page import EARLIEST, Answer, Entry, Page, Since, make_page
from gateway.core.subscription import NEWEST, QUEUE_BYTES, Subscription
from gateway.core.wire import BLOCK, CHUNK, TEXT, Wire


class Client:
    """A client, the hub it hangs on, and what was written to it."""

    def __init__(self, wire: Wire = TEXT, write: Callable[[bytes], object] | None = None, *, until_final: bool = False) -> None:
        self.hub = Hub()
        self.got: list[dict[str, Any]] = []
        self.calls = 0
        self.over = False
        self.subscription = Subscription(
            wire=wire,
            write=write or (lambda data: self.got.append(json.loads(data))),
            on_behind=self._fall,
            on_done=self._end,
            on_failed=lambda: None,
            until_final=until_final,
        )

    def _fall(self, _subscription: Subscription) -> None:
        self.calls += 1

    def _end(self) -> None:
        self.over = True

    def follow(self, ref: int | None = None, /, **channels: Since) -> None:
        self.subscription.add(ref, [self.hub.follow(self.subscription, name, since) for name, since in channels.items()])

    def read(self, **answers: Answer) -> None:
        cursors = self.subscription.cursors
        pages: dict[Any, Page] = {cursors[name]: make_page(cursors[name].start, answer) for name, answer in answers.items()}
        self.subscription.end_read(pages, self.hub.heard)

    @property
    def ids(self) -> list[int]:
        return [int(message["id"]) for message in self.got if "id" in message]

    @property
    def notices(self) -> list[str]:
        return [message["op"] for message in self.got if "op" in message]


def event(channel: str, id: int, before: int, *, final: bool = False, size: int = 0) -> Event:
    json = b'{"type":"t","data":"%b","final":%b}' % (b"x" * size, b"true" if final else b"false")
    return Event(channel, id, before, parse_published(json, QUEUE_BYTES))


def answer(channel: str, *ids: int, clock: int, more: bool = False, final: bool = False) -> Answer:
    entries = [Entry(id, before, event(channel, id, before)) for before, id in zip((0, *ids), ids, strict=False)]
    return Answer(clock, (), ids[-1] if ids else 0, final, more, entries)


def test_first_the_log_then_ready_then_live() -> None:
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, 20, clock=20))
    client.hub.announce(event("a", 30, 20))

    assert client.ids == [10, 20, 30]
    assert [("op" in message) for message in client.got] == [False, False, True, False]
    assert client.subscription.live


def test_what_is_announced_while_reading_comes_after_and_once() -> None:
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    client.hub.announce(event("a", 20, 10))
    client.hub.announce(event("a", 30, 20))
    client.read(a=answer("a", 10, 20, clock=20))

    assert client.ids == [10, 20, 30]


def test_a_log_that_goes_on_is_read_again_before_ready() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, 20, clock=40, more=True), b=answer("b", 5, clock=40))
    unfinished = (client.notices, client.subscription.live)
    client.subscription.begin_read()
    rest = [Entry(30, 20, event("a", 30, 20)), Entry(40, 30, event("a", 40, 30))]
    client.read(a=Answer(40, (), 40, False, False, rest), b=Answer(40, (), 5, False, False, []))

    assert unfinished == ([], False)
    assert client.ids == [5, 10, 20, 30, 40]
    assert client.notices == ["ready"]


def test_channels_leave_in_the_order_of_their_ids() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, 40, clock=50), b=answer("b", 20, 30, clock=50))

    assert client.ids == [10, 20, 30, 40]


def test_a_connection_lost_while_reading_means_reading_again() -> None:
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    client.hub.all_behind()
    client.read(a=answer("a", 10, clock=10))

    assert client.ids == [10]
    assert not client.subscription.live
    assert [cursor.start for cursor in client.subscription.unread] == [10]


def test_what_was_read_before_the_connection_was_lost_does_not_reach_to_what_was_heard_after() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.hub.all_behind()
    client.follow(c="now")
    client.hub.announce(event("c", 30, 0))
    client.read(a=answer("a", clock=5), b=answer("b", 20, clock=30))  # and an event of a, 10, was missed in between

    assert client.ids == []


def client_with_too_long_a_queue() -> Client:
    """One that has read the event 10, while those from 20 to 110 were announced."""
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    for i in range(10):
        client.hub.announce(event("a", 20 + 10 * i, 10 + 10 * i, size=QUEUE_BYTES // 5))
    client.read(a=answer("a", 10, clock=10))
    return client


def test_a_queue_that_grows_too_long_is_dropped_and_read_from_the_log() -> None:
    client = client_with_too_long_a_queue()

    assert client.ids == [10]
    assert not client.subscription.live


def test_after_a_queue_that_was_given_up_the_next_one_has_all_its_room() -> None:
    client = client_with_too_long_a_queue()
    client.subscription.begin_read()
    client.hub.announce(event("a", 120, 110))
    page = make_page(10, answer("a", *range(20, 120, 10), clock=110))
    client.subscription.end_read({client.subscription.cursors["a"]: replace(page, heard=110)}, client.hub.heard)

    assert client.ids == list(range(10, 130, 10))
    assert client.subscription.live


def test_a_client_that_read_and_then_missed_an_event_is_behind_again() -> None:
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, clock=10))
    calls = client.calls
    client.hub.announce(event("a", 30, 20))

    assert client.ids == [10]
    assert (client.subscription.live, client.calls) == (False, calls + 1)


def test_what_is_in_the_page_and_was_announced_after_that_was_read_is_not_looked_for_again() -> None:
    """A page that another client has asked for may be older than the queue."""
    client = Client()
    client.follow(a=0)
    client.hub.announce(event("a", 20, 10))
    client.subscription.begin_read()
    client.hub.announce(event("a", 30, 20))
    client.read(a=answer("a", 10, 20, clock=20))

    assert client.ids == [10, 20, 30]
    assert client.subscription.live


def test_a_full_writer_is_not_written_to() -> None:
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    client.read(a=answer("a", clock=5))
    client.subscription.pause()
    calls = client.calls
    client.hub.announce(event("a", 10, 0))
    nothing = (client.ids, client.calls)
    client.subscription.resume()

    assert nothing == ([], calls)
    assert client.calls == calls + 1


def test_a_writer_that_was_full_before_the_read_began_is_not_live_after_it() -> None:
    """It may become full while the subscription to a new channel is waiting for Redis's confirmation."""
    client = Client()
    client.follow(a=0)
    client.subscription.pause()
    client.subscription.begin_read()
    client.read(a=answer("a", 10, clock=10))
    client.hub.announce(event("a", 20, 10))
    while_full = (client.ids, client.subscription.live)
    client.subscription.resume()
    client.subscription.begin_read()
    client.read(a=answer("a", 20, clock=20))

    assert while_full == ([10], False)
    assert client.ids == [10, 20]
    assert client.subscription.live


def test_a_client_that_is_full_or_has_left_asks_for_no_read() -> None:
    full, left = Client(), Client()
    for client in (full, left):
        client.follow(a=0)
        client.subscription.begin_read()
        client.read(a=answer("a", clock=5))
    full.subscription.pause()
    left.subscription.closed = True
    for client in (full, left):
        client.subscription.fall_behind()

    assert (full.calls, left.calls) == (1, 1)


def test_each_wish_has_its_own_ready_with_its_reference_and_cursors() -> None:
    client = Client()
    client.follow(7, a="last")
    client.follow(8, b="last")
    for more in (True, False):
        client.subscription.begin_read()
        client.read(a=answer("a", 10, clock=20, more=more), b=answer("b", 20, clock=20, more=more))

    assert client.got[-2:] == [{"op": "ready", "ref": 7, "channels": {"a": "10"}}, {"op": "ready", "ref": 8, "channels": {"b": "20"}}]


def test_a_channel_left_during_a_read_delivers_nothing() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    left = client.subscription.cursors["a"]
    pages = {
        cursor: make_page(0, answer(name, 10 if name == "a" else 20, clock=20)) for name, cursor in client.subscription.cursors.items()
    }
    client.hub.leave(left, 0)
    client.subscription.end_read(pages, 0)

    assert client.ids == [20]
    assert client.got[-1] == {"op": "ready", "channels": {"b": "20"}}


def test_who_leaves_the_only_channel_during_its_read_is_told_that_it_is_ready() -> None:
    client = Client()
    client.follow(7, a=0)
    client.subscription.begin_read()
    client.hub.leave(client.subscription.cursors["a"], 0)
    client.subscription.end_read({}, client.hub.heard)

    assert client.got == [{"op": "ready", "ref": 7, "channels": {}}]
    assert client.subscription.live


def test_a_channel_left_during_a_read_does_not_deliver_its_queued_events_either() -> None:
    client = Client()
    client.follow(a=10, b=10)
    client.subscription.begin_read()
    client.hub.announce(event("a", 20, 10))
    client.hub.leave(client.subscription.cursors["a"], 0)
    client.read(b=answer("b", clock=20))

    assert client.ids == []
    assert client.subscription.live


def test_it_is_done_after_the_final_event_of_every_channel() -> None:
    client = Client(until_final=True)
    client.follow(a="last", b=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, clock=10, final=True), b=answer("b", clock=10))
    before = client.over
    client.hub.announce(event("b", 20, 0, final=True))

    assert (before, client.over) == (False, True)


@pytest.mark.parametrize("until_final", [False, True])
@pytest.mark.parametrize("way", ["read", "read and not the newest", "announced meanwhile"])
def test_a_final_event_that_came_while_behind_ends_a_subscription_until_final(way: str, until_final: bool) -> None:
    client = Client(until_final=until_final)
    client.follow(a=0)
    client.subscription.begin_read()
    final = event("a", 20, 10, final=True)
    if way == "announced meanwhile":
        client.hub.announce(final)
        client.read(a=answer("a", 10, clock=10))
    else:
        after = [Entry(30, 20, event("a", 30, 20))] if way == "read and not the newest" else []
        client.read(a=Answer(30, (), 30 if after else 20, not after, False, [Entry(20, 0, final), *after]))

    assert 20 in client.ids
    assert client.over is until_final


def test_a_final_event_does_not_end_a_client_before_the_rest_of_the_log_is_read() -> None:
    client = Client(until_final=True)
    client.follow(a=0)
    client.subscription.begin_read()
    client.read(a=Answer(30, (), 30, False, True, [Entry(10, 0, event("a", 10, 0, final=True))]))
    before = client.over
    client.subscription.begin_read()
    client.read(a=Answer(30, (), 30, False, False, [Entry(30, 10, event("a", 30, 10))]))

    assert (before, client.over) == (False, True)
    assert client.ids == [10, 30]
    assert client.notices == ["ready"]


def test_an_event_that_is_not_final_and_a_client_without_channels_end_nothing() -> None:
    client, idle = Client(until_final=True), Client(until_final=True)
    client.follow(a=0)
    client.subscription.begin_read()
    client.hub.announce(event("a", 20, 10))
    client.read(a=answer("a", 10, clock=10))
    idle.subscription.check_done()

    assert client.ids == [10, 20]
    assert not client.over
    assert not idle.over


def reading_stream(**channels: Since) -> tuple[Client, list[bytes]]:
    """The client of an event stream whose first read is under way, and what is written to it."""
    written: list[bytes] = []
    client = Client(BLOCK, written.append)
    client.follow(**channels)
    client.subscription.begin_read()
    return client, written


def test_gaps_of_two_channels_at_one_place_are_both_told_and_move_no_cursor() -> None:
    client, written = reading_stream(b=10, a=10)
    client.read(**{name: Answer(50, (), 40, False, False, []) for name in "ba"})
    told = b"".join(written)

    assert [line for line in told.split(b"\n") if line.startswith((b"id", b"event"))] == [
        b"event: gap",
        b"event: gap",
        b"id: 40",
        b"event: ready",
    ]
    assert told.index(b'"a"') < told.index(b'"b"')


def test_a_gap_comes_before_an_event_of_another_channel_at_its_place() -> None:
    """An event stream that ends between the two comes back with the cursor before both, or not at all."""
    client, written = reading_stream(a=10, b=10)
    client.read(a=Answer(20, (), 11, False, False, [Entry(11, 10, event("a", 11, 10))]), b=Answer(20, (), 20, False, False, []))
    told = b"".join(written)

    assert told.index(b"event: gap") < told.index(b"id: 11\ndata")
    assert client.subscription.stats.gaps == 1


def test_a_gap_that_ends_beyond_the_other_channels_is_told_once() -> None:
    client = Client()
    client.follow(a=10, b=10)
    last = Entry(30, 28, event("a", 30, 28))
    for clock in (25, 50):
        client.subscription.begin_read()
        client.read(a=Answer(50, (), 30, False, False, [last]), b=Answer(clock, (), 10, False, False, []))

    assert (client.notices, client.ids) == (["gap", "ready"], [30])


@pytest.mark.parametrize("busy", [False, True])
def test_a_channel_that_missed_an_event_holds_up_the_other_channels(busy: bool) -> None:
    client = Client()
    client.follow(a=10, b=10)
    client.hub.announce(event("a", 30, 10))  # before the queue was begun, and a replica that lags has not got it
    client.subscription.begin_read()
    if busy:
        client.hub.announce(event("b", 40, 10))
    client.read(a=answer("a", clock=20), b=answer("b", clock=20))

    assert client.ids == []
    assert not client.subscription.live


def test_what_is_beyond_the_channel_read_first_waits_for_the_next_read() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, clock=20), b=answer("b", 15, 30, clock=30))
    first = (client.ids, client.subscription.must_reach, client.subscription.live)
    client.subscription.begin_read()
    client.read(a=Answer(30, (), 25, False, False, [Entry(25, 10, event("a", 25, 10))]), b=answer("b", 15, 30, clock=30))

    assert first == ([10, 15], 30, False)
    assert client.ids == [10, 15, 25, 30]
    assert client.subscription.live


def test_the_next_read_must_reach_as_far_as_the_farthest_page_and_the_one_after_it_need_not() -> None:
    client = Client()
    client.follow(a=0, b=0, c=0)
    client.subscription.begin_read()
    client.read(a=answer("a", clock=20), b=answer("b", 50, clock=50), c=answer("c", 30, clock=30))
    first = client.subscription.must_reach
    client.subscription.begin_read()
    client.read(a=answer("a", clock=50), b=answer("b", 50, clock=50), c=answer("c", 30, 60, clock=60))

    assert (first, client.subscription.must_reach) == (50, 0)
    assert client.ids == [30, 50]
    assert client.subscription.live


def test_a_client_that_does_not_wait_for_announcements_is_live_after_one_read() -> None:
    client = Client()
    client.subscription.must_reach = NEWEST
    client.follow(a=0)
    client.subscription.begin_read()
    client.read(a=answer("a", 10, clock=10))

    assert client.subscription.live


def test_who_asks_again_while_its_log_is_read_is_given_a_read_that_is_sent_after_that() -> None:
    client = Client()
    client.follow(a=0)
    client.subscription.begin_read()
    client.subscription.must_reach = NEWEST
    client.subscription.add(None, [client.subscription.cursors["a"]])
    client.read(a=answer("a", 10, clock=10))
    first = client.subscription.must_reach
    client.subscription.begin_read()
    client.read(a=answer("a", 10, clock=10))

    assert (first, client.subscription.must_reach) == (NEWEST, 0)
    assert client.subscription.live


def test_an_announcement_on_any_channel_shows_that_a_page_reaches_as_far() -> None:
    client, other = Client(), Client()
    client.follow(a=0, b=0)
    client.hub.follow(other.subscription, "c", 0)
    client.hub.announce(event("c", 50, 0))
    client.subscription.begin_read()
    client.read(a=answer("a", clock=20), b=answer("b", 30, clock=30))

    assert client.ids == [30]
    assert client.subscription.live


def test_what_lies_beyond_a_channel_is_waited_for_anew_after_a_lost_connection() -> None:
    """Its announcement may have been lost with the connection."""
    client = Client()
    client.follow(a=0, b=0)
    for _ in range(2):
        client.subscription.begin_read()
        client.read(a=answer("a", clock=20), b=answer("b", 30, clock=30))
        live = client.subscription.live
        client.hub.all_behind()

    assert not live


def test_on_busy_channels_the_second_read_is_enough() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.read(a=answer("a", clock=20), b=answer("b", 30, clock=30))
    client.subscription.begin_read()
    client.read(a=answer("a", clock=40), b=answer("b", 30, 50, clock=50))
    live = client.subscription.live
    client.hub.announce(event("b", 50, 30))

    assert live
    assert client.ids == [30, 50]


def test_one_read_of_many_channels_gives_no_more_than_a_client_may_have_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "TURN_BYTES", 90)
    client = Client()
    client.follow(a=0, b=0, c=0)
    given = []
    for _ in range(3):
        client.subscription.begin_read()
        at = {name: cursor.position for name, cursor in client.subscription.cursors.items()}
        logs = {"a": [10, 40, 60], "b": [20, 50], "c": [30]}
        client.read(**{name: answer(name, *[id for id in ids if id > at[name]], clock=70) for name, ids in logs.items()})
        given.append((client.ids, client.subscription.live))

    assert given == [([10, 20], False), ([10, 20, 30, 40], False), ([10, 20, 30, 40, 50, 60], True)]
    assert client.notices == ["ready"]


def test_a_turn_goes_no_further_than_the_channel_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "TURN_BYTES", 90)
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.read(a=answer("a", clock=20), b=answer("b", 10, 30, 50, clock=50))

    assert client.ids == [10]


def test_a_gap_beyond_the_horizon_is_not_left_to_the_announcements() -> None:
    client = Client()
    client.follow(a=0, b=0)
    for _ in range(3):
        client.subscription.begin_read()
        client.read(a=answer("a", clock=20), b=Answer(50, (), 50, False, False, [Entry(25, 0, event("b", 25, 0))]))
    before = (client.ids, client.notices, client.subscription.live)
    client.subscription.begin_read()
    client.read(a=answer("a", clock=50), b=Answer(50, (), 50, False, False, [Entry(25, 0, event("b", 25, 0))]))

    assert before == ([], [], False)
    assert client.notices == ["gap", "ready"]
    assert client.subscription.live


def test_nothing_is_taken_from_the_queue_while_another_channel_is_still_read() -> None:
    client = Client()
    client.follow(a=0, b=0)
    client.subscription.begin_read()
    client.hub.announce(event("a", 90, 0))
    client.read(a=answer("a", clock=20), b=answer("b", 10, clock=50, more=True))

    assert client.ids == [10]
    assert not client.subscription.live


def test_what_was_announced_before_the_queue_and_is_in_no_log_is_looked_for_again() -> None:
    client = Client()
    client.follow(a=10)
    client.hub.announce(event("a", 20, 10))
    client.subscription.begin_read()
    client.hub.announce(event("a", 30, 0))  # Redis was flushed in between: it knows of nothing before
    client.read(a=Answer(10, (), 0, False, False, []))

    assert client.ids == []
    assert not client.subscription.live


def test_an_announcement_that_the_log_never_has_does_not_keep_it_reading() -> None:
    client = Client()
    client.follow(a=10)
    client.hub.announce(event("a", 99, 98))
    client.subscription.begin_read()
    page = replace(make_page(10, Answer(10, (), 10, False, False, [])), heard=99)
    client.subscription.end_read({client.subscription.cursors["a"]: page}, client.hub.heard)

    assert client.subscription.live


def test_an_announcement_that_the_log_never_has_does_not_keep_it_reading_if_another_channel_is_busy() -> None:
    client = Client()
    client.follow(a=10, b=10)
    client.hub.announce(event("a", 99, 98))
    client.subscription.begin_read()
    client.hub.announce(event("b", 120, 10))
    a, b = client.subscription.cursors.values()
    page = make_page(10, Answer(10, (), 10, False, False, []))
    client.subscription.end_read({a: replace(page, heard=99), b: page}, client.hub.heard)

    assert client.ids == [120]
    assert client.subscription.live


@pytest.mark.parametrize("since", ["last", "now"])
def test_ready_is_where_an_event_stream_without_an_event_gets_its_cursor(since: Since) -> None:
    client, written = reading_stream(a=since, b=since)
    client.read(a=answer("a", clock=50), b=Answer(50, (40,), 0, False, False, []))

    assert written[0].startswith(b"id: 50\nevent: ready\n")


@pytest.mark.parametrize("since", ["last", "now"])
def test_ready_gives_an_event_stream_a_cursor_if_one_of_its_channels_came_without(since: Since) -> None:
    client, written = reading_stream(a=EARLIEST, b=since)
    client.read(a=answer("a", EARLIEST, clock=EARLIEST + 5), b=answer("b", clock=EARLIEST + 5))

    assert written[0].startswith(b"id: %d\nevent: ready\n" % (EARLIEST + 5))


def test_an_event_stream_comes_back_after_all_that_was_old_when_it_began() -> None:
    client, written = reading_stream(a="last", b="now")
    client.read(a=answer("a", 10, clock=30), b=Answer(30, (), 30, final=False, more=False, entries=[]))

    assert [data.partition(b"\n")[0] for data in written[0].split(b"\n\n") if data] == [b"id: 10", b"id: 30"]


def test_an_event_stream_that_comes_back_is_not_told_again_of_a_gap() -> None:
    client, written = reading_stream(a=EARLIEST)
    client.read(a=Answer(EARLIEST + 9, (), EARLIEST + 7, final=False, more=False, entries=[]))
    gap, ready, _ = written[0].split(b"\n\n")

    assert gap.startswith(b"event: gap\n")
    assert ready.startswith(b"id: %d\nevent: ready\n" % (EARLIEST + 7))


def test_there_is_no_cursor_to_come_back_with_before_the_first_read() -> None:
    client = Client()
    client.follow(a="last", b=10)

    assert client.subscription.positions() == {"b": "10"}


def test_a_read_page_is_one_write_where_the_wire_format_delimits_events() -> None:
    written: dict[Wire, list[bytes]] = {CHUNK: [], TEXT: []}
    for wire, taken in written.items():
        client = Client(wire, taken.append)
        client.follow(a=0)
        client.subscription.begin_read()
        client.read(a=answer("a", 11, 12, clock=12))

    assert [data.count(b"data:") for data in written[CHUNK]] == [3]
    assert b"ready" in written[CHUNK][0]
    assert len(written[TEXT]) == 3


def test_the_greeting_goes_in_one_write_with_what_comes_first() -> None:
    written: list[bytes] = []
    client = Client(CHUNK, written.append)
    client.subscription.greeting = b"hello "
    client.follow(a=0)
    before = list(written)
    client.subscription.begin_read()
    client.read(a=Answer(9, (), 0, final=False, more=False, entries=[]))
    client.subscription.notice("pong", {})

    assert before == []
    assert [data.startswith(b"hello ") for data in written] == [True, False]
    assert b"ready" in written[0]


def test_nothing_overtakes_the_greeting() -> None:
    written: list[bytes] = []
    client = Client(TEXT, written.append)
    client.subscription.greeting = b"hello"
    client.subscription.notice("pong", {})
    client.subscription.greet()

    assert written == [b"hello", b'{"op":"pong"}']
