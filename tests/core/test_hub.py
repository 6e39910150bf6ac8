"""The hub: which subscriptions follow which channel, and who is written to when an event is announced."""

from __future__ import annotations

from functools import partial

import pytest

from gateway.core.cursor import Cursor
from gateway.core.event import Event, parse_published
from gateway.core.hub import Hub
from gateway.core.subscription import Subscription
from gateway.core.wire import BLOCK, FRAME, TEXT, Wire


class Client:
    """A client that is live, with what was written to it."""

    def __init__(self, hub: Hub, channel: str, position: int = 0, wire: Wire = TEXT) -> None:
        self.got: list[bytes] = []
        self.behind = 0
        self.over = False
        self.subscription = Subscription(
            wire=wire,
            write=self.got.append,
            on_behind=self._fall,
            on_done=self._end,
            on_failed=lambda: None,
            until_final=True,
        )
        self.cursor: Cursor = hub.follow(self.subscription, channel, position)
        self.subscription.cursors[channel] = self.cursor
        self.cursor.live = True
        self.cursor.unread = False

    def _fall(self, _subscription: Subscription) -> None:
        self.behind += 1

    def _end(self) -> None:
        self.over = True


def event(id: int, before: int, *, final: bool = False, channel: str = "jobs:1") -> Event:
    return Event(channel, id, before, parse_published(b'{"type":"t","final":%b}' % (b"true" if final else b"false")))


def test_a_client_whose_cursor_is_the_event_before_is_written_to_at_once() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    first = event(20, 10)
    hub.announce(first)

    assert client.got == [first.json]
    assert client.cursor.position == 20


def test_for_who_keeps_up_nothing_is_done_but_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subscription, "miss", None)
    hub = Hub()
    clients = [Client(hub, "jobs:1", 10) for _ in range(3)]
    first, second = hub.announce(event(20, 10)), hub.announce(event(30, 20))

    assert [len(client.got) for client in clients] == [2, 2, 2]
    assert first is second  # the followers are grouped by wire format once


def test_what_the_client_has_is_not_sent_again() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 30)
    hub.announce(event(20, 10))
    hub.announce(event(30, 20))

    assert client.got == []
    assert client.subscription.live


def test_a_cursor_from_another_channel_is_current_if_the_event_follows_it() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 15)
    hub.announce(event(20, 10))

    assert len(client.got) == 1


def test_a_client_that_missed_an_event_is_behind_and_not_written_to() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    hub.announce(event(30, 20))
    hub.announce(event(40, 30))

    assert client.got == []
    assert (client.behind, client.subscription.live, client.cursor.unread) == (1, False, True)


def test_a_client_that_is_behind_does_not_delay_others() -> None:
    hub = Hub()
    slow, quick = Client(hub, "jobs:1", 0), Client(hub, "jobs:1", 10)
    slow.subscription.pause()
    hub.announce(event(20, 10))

    assert (len(slow.got), len(quick.got)) == (0, 1)


def test_an_event_is_encoded_once_for_each_wire_format() -> None:
    hub = Hub()
    clients = [Client(hub, "jobs:1", 10, wire) for wire in (TEXT, FRAME, BLOCK) for _ in range(50)]
    hub.announce(event(20, 10))

    assert len({id(client.got[0]) for client in clients}) == 3


def test_every_write_is_counted_on_each_path() -> None:
    hub = Hub()
    clients = [Client(hub, "jobs:1", position, FRAME) for position in (10, 10, 20, 0)]
    first, live = event(20, 10), event(0, 0)
    for announced in (first, live, first):
        hub.announce(announced)

    written = hub.stats[FRAME]
    assert [len(client.got) for client in clients] == [2, 2, 1, 0]
    assert (written.events, written.duplicates) == (5, 4)
    assert written.bytes == sum(len(data) for client in clients for data in client.got)


def test_followers_are_counted_and_leaving_twice_counts_once() -> None:
    hub = Hub()
    clients = [Client(hub, "jobs:1", 10) for _ in range(3)]
    for _ in range(2):
        hub.leave(clients[0].cursor, now=5.0)

    assert hub.following == 2


def test_a_channel_nobody_follows_costs_nothing() -> None:
    hub = Hub()
    hub.announce(event(20, 10, channel="jobs:none"))

    assert hub.channels == {}


def test_a_client_that_left_is_not_written_to_and_an_empty_channel_is_noted() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    hub.leave(client.cursor, now=5.0)
    hub.announce(event(20, 10))

    assert client.got == []
    assert hub.idle == {hub.channels["jobs:1"]: 5.0}
    Client(hub, "jobs:1", 10)
    assert hub.idle == {}


def test_a_channel_that_others_still_follow_is_not_given_up() -> None:
    hub = Hub()
    first, second = Client(hub, "jobs:1", 10), Client(hub, "jobs:1", 10)
    hub.leave(first.cursor, now=5.0)
    still_followed = dict(hub.idle)
    hub.leave(second.cursor, now=6.0)

    assert still_followed == {}
    assert hub.idle == {second.cursor.channel: 6.0}


def test_leaving_twice_does_not_give_up_a_channel_that_others_follow_now() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    hub.leave(client.cursor, now=5.0)
    hub.forget(client.cursor.channel)
    other = Client(hub, "jobs:1", 10)
    hub.leave(client.cursor, now=6.0)
    hub.announce(event(20, 10))

    assert hub.idle == {}
    assert len(other.got) == 1


def test_a_client_that_joins_between_two_events_gets_the_second() -> None:
    hub = Hub()
    first = Client(hub, "jobs:1", 10)
    hub.announce(event(20, 10))
    others = [Client(hub, "jobs:1", 20, wire) for wire in (TEXT, BLOCK)]
    hub.announce(event(30, 20))
    hub.leave(first.cursor, now=5.0)
    hub.announce(event(40, 30))

    assert [len(client.got) for client in (first, *others)] == [2, 2, 2]


def test_a_final_event_ends_a_subscription_until_final() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    hub.announce(event(20, 10))
    before = client.over
    hub.announce(event(30, 20, final=True))

    assert (before, client.over) == (False, True)


def test_a_final_event_does_not_end_a_client_that_is_behind() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    hub.announce(event(30, 20))
    hub.announce(event(40, 30, final=True))

    assert not client.over


def test_a_client_that_leaves_as_it_is_told_that_all_is_over_keeps_nobody_from_being_told() -> None:
    hub = Hub()
    clients = [Client(hub, "jobs:1", 10) for _ in range(3)]
    for client in clients:
        client.subscription.on_done = partial(hub.leave, client.cursor, now=5.0)
    hub.announce(event(20, 10, final=True))

    assert hub.following == 0


def test_the_newest_id_received_is_that_over_all_channels() -> None:
    hub = Hub()
    for name in ("jobs:1", "jobs:2"):
        Client(hub, name)
    heard = []
    for next in (event(20, 10), event(30, 10, channel="jobs:2"), event(0, 0), event(25, 20)):
        hub.announce(next)
        heard.append((hub.heard, hub.channels["jobs:1"].heard))

    assert heard == [(20, 20), (30, 20), (30, 20), (30, 25)]


def test_a_live_only_event_moves_no_cursor() -> None:
    hub = Hub()
    client = Client(hub, "jobs:1", 10)
    hub.announce(event(0, 0))

    assert len(client.got) == 1
    assert client.cursor.position == 10


def test_after_a_lost_connection_all_are_behind() -> None:
    hub = Hub()
    clients = [Client(hub, f"jobs:{i}", 10) for i in range(3)]
    hub.all_behind()

    assert [client.subscription.live for client in clients] == [False] * 3
