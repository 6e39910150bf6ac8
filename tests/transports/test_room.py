"""How connections are counted and limited: in all, by address and by subject."""

from __future__ import annotations

import pytest

from gateway import metrics
from gateway.errors import TooManyConnections, Unavailable
from gateway.transports.room import Limits, Room, address_of


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, ""),
        (("203.0.113.1", 5), "203.0.113.1"),
        (("::ffff:203.0.113.1", 5), "203.0.113.1"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("testclient", 5), "testclient"),
        (("a:b", 5), "a:b"),
    ],
)
def test_an_address_is_counted_whole_or_by_its_ipv6_prefix(client: tuple[str, int] | None, address: str) -> None:
    assert address_of({"client": client}) == address


def test_a_connection_that_leaves_makes_room_and_leaves_nothing_behind() -> None:
    room = Room(Limits(3, 2, 1))
    room.enter("a", "ann")
    room.enter("a", "bob")
    with pytest.raises(TooManyConnections, match="from this address"):
        room.check("a", "cid")
    with pytest.raises(TooManyConnections, match="for this token's sub"):
        room.check("b", "ann")
    room.enter("b", "cid")
    with pytest.raises(Unavailable, match="3 connections are open"):
        room.check("c", "dan")
    room.leave("b", "cid")
    room.check("c", "dan")
    room.leave("a", "bob")
    room.leave("a", "ann")

    room.check("a", "ann")
    assert room.count == 0
    assert not room._addresses
    assert not room._subjects


def test_a_client_with_too_many_connections_does_not_make_the_gateway_look_full() -> None:
    room = Room(Limits(2, 1))
    room.check("a", "ann")
    room.enter("a", "ann")
    with pytest.raises(Unavailable) as one_client:
        room.check("a", "ann")
    room.enter("b", "bob")
    with pytest.raises(Unavailable) as everybody:
        room.check("a", "ann")

    assert [refused.value.status for refused in (one_client, everybody)] == [503, 503]
    assert [metrics.REASONS[refused.type] for refused in (one_client, everybody)] == ["too_many_connections", "unavailable"]


def test_those_for_whom_there_is_no_room_are_told_to_come_back_at_different_times() -> None:
    room, waits = Room(Limits(0)), set()
    for _ in range(50):
        with pytest.raises(Unavailable) as refused:
            room.check()
        waits.add(refused.value.retry_after)

    assert 1 < len(waits) <= 5


def test_without_limits_of_their_own_addresses_and_subjects_have_any_number() -> None:
    room = Room(Limits(100))
    for _ in range(99):
        room.enter("a", "ann")

    room.check("a", "ann")


def test_a_connection_without_an_address_or_subject_is_not_counted_for_one() -> None:
    room = Room(Limits(100, 1, 1))
    room.enter("", "")

    room.check("", "")
