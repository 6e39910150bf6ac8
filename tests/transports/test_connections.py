"""Heartbeats, age, stalled clients and ends of streams; tests/server/test_edge.py tests some of it over real sockets."""

from __future__ import annotations

import asyncio
import math
from copy import copy
from typing import Any

import pytest

from gateway import metrics
from gateway.core.grant import Grant
from gateway.core.subscription import Subscription
from gateway.core.wire import BLOCK
from gateway.errors import Unavailable
from gateway.transports import connections as module
from gateway.transports.connections import PARTS, Connections
from gateway.transports.room import Limits
from tests.support.waiting import until


async def test_an_error_of_one_connection_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    connections = Connections(Limits(3, 2, 1), 20)
    done = asyncio.Event()

    async def fail() -> None:
        raise RuntimeError("on purpose")

    async def succeed() -> None:
        done.set()

    running = asyncio.ensure_future(connections.run())
    await asyncio.sleep(0)
    connections.spawn(fail())
    await asyncio.sleep(0)
    connections.spawn(succeed())
    await asyncio.wait_for(done.wait(), 30)

    assert not running.done()
    assert "on purpose" in caplog.text
    running.cancel()


async def test_what_is_to_be_done_for_a_connection_after_the_end_is_left_undone() -> None:
    connections = Connections(Limits(3), 20)
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(True)

    running = asyncio.ensure_future(connections.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    connections.spawn(begin())
    await asyncio.sleep(0)

    assert begun == []


class Slow:
    """A connection with so many waiting bytes, whose client takes so many between two checks."""

    transport = "sse"
    grant = Grant.everything()
    subscription = Subscription(wire=BLOCK, write=print, on_behind=print, on_done=print, on_failed=print)

    def __init__(self, takes: int, waiting: int = 1_000) -> None:
        self.writer: Any = self
        self._waiting = waiting
        self.cut = asyncio.Event()
        self.abort = self.cut.set
        self._takes = takes
        self._taken = 0
        self.beats = 0
        self.is_patient = False
        self.goodbyes: list[int] = []

    def buffered(self) -> int:
        return self._waiting

    def taken(self) -> int:
        self._taken += self._takes
        return self._taken

    def be_patient(self) -> None:
        self.is_patient = True

    def beat(self) -> None:
        self.beats += 1

    async def goodbye(self, code: int, reason: str) -> None:
        self.goodbyes.append(code)


async def test_a_client_that_takes_no_bytes_is_cut_and_a_slow_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(module, "STALLED_SECONDS", 0.1)
    connections, stalled, slow, idle = Connections(Limits(100), 20), Slow(0), Slow(1), Slow(0, waiting=0)
    before = metrics.GOODBYES["4408"].value
    for connection in (idle, slow, stalled):
        connections.add(connection, "")
    running = asyncio.ensure_future(connections.run())
    await asyncio.wait_for(stalled.cut.wait(), 30)
    running.cancel()

    assert not slow.cut.is_set()
    assert not idle.cut.is_set()
    assert [connection.is_patient for connection in (idle, slow, stalled)] == [False, True, False]
    assert metrics.GOODBYES["4408"].value == before + 1


async def test_a_client_that_is_shown_to_be_one_byte_behind_is_not_stalled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a Unix socket the number that shows what is taken is the size of the buffer, below zero."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.001)
    connections, behind = Connections(Limits(100), 20), Slow(0, waiting=1)
    behind._taken = -1
    connections.add(behind, "")
    running = asyncio.ensure_future(connections.run())
    await asyncio.sleep(0.1)  # many checks
    running.cancel()

    assert not behind.cut.is_set()


async def test_heartbeats_go_to_those_who_have_room_for_them() -> None:
    connections, live, full, closed = Connections(Limits(100), 0.01), Slow(1), Slow(1), Slow(1)
    for connection in (full, closed, live):
        connection.subscription = copy(Slow.subscription)
        connections.add(connection, "")
    full.subscription.full = closed.subscription.closed = True
    running = asyncio.ensure_future(connections.run())
    await until(lambda: live.beats >= 2)
    running.cancel()

    assert (full.beats, closed.beats) == (0, 0)


async def test_a_stream_that_is_gone_has_no_heartbeats_and_leaves_its_room_to_another() -> None:
    connections, gone, live = Connections(Limits(100), 0.01), Slow(1), Slow(1)
    connections.add(gone, "")
    connections.add(live, "")
    connections.remove(gone)
    running = asyncio.ensure_future(connections.run())
    await until(lambda: live.beats >= 2)
    running.cancel()

    assert gone.beats == 0
    assert connections.count == 1


async def test_the_heartbeats_are_spread_over_the_time_between_two_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    connections, sleep = Connections(Limits(100), 20), asyncio.sleep

    async def note(seconds: float) -> None:
        await sleep(0 if seconds == 20 / PARTS else 60)

    many = [Slow(1) for _ in range(PARTS)]
    for connection in many:
        connections.add(connection, "")
    monkeypatch.setattr(asyncio, "sleep", note)
    running = asyncio.ensure_future(connections.run())
    beaten: list[int] = []
    async with asyncio.timeout(30):
        while not beaten or beaten[-1] < PARTS:
            beaten.append(sum(connection.beats for connection in many))
            await sleep(0)
    running.cancel()

    assert sorted(set(beaten)) == list(range(PARTS + 1))


async def test_the_end_of_all_connections_is_awaited_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(Limits(100), 20)
    with connections.counted("a", "ann", lambda *_: None):
        waiting = asyncio.ensure_future(connections.closed())
        await asyncio.sleep(0)
        waited = not waiting.done()
        monkeypatch.setattr(module, "CLOSE_SECONDS", 0)
        async with asyncio.timeout(4):
            await connections.closed()
    async with asyncio.timeout(4):
        await waiting

    assert waited


async def test_a_connection_to_which_nobody_can_say_goodbye_any_more_is_cut() -> None:
    connections, connection = Connections(Limits(100), 20), Slow(1)
    connections.add(connection, "")
    connections.end(connection, 1012, "over")

    assert connection.cut.is_set()


async def test_a_connection_that_is_ended_twice_is_told_once() -> None:
    connections, connection = Connections(Limits(100), 20), Slow(1)
    connections.end(connection, 1012, "it is gone already")
    connections.add(connection, "")
    running = asyncio.ensure_future(connections.run())
    await asyncio.sleep(0)
    for code in (1012, 4401):
        connections.end(connection, code, "over")
    for _ in range(5):
        await asyncio.sleep(0)
    running.cancel()

    assert connection.goodbyes == [1012]


@pytest.mark.parametrize("problem", [OSError, RuntimeError, None], ids=["gone", "being closed", "takes no bytes"])
async def test_a_client_that_cannot_be_told_goodbye_is_cut(monkeypatch: pytest.MonkeyPatch, problem: type[Exception] | None) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.01)
    connections, connection = Connections(Limits(100), 20), Slow(1)

    async def goodbye(code: int, reason: str) -> None:
        if problem is not None:
            raise problem
        await asyncio.Event().wait()

    monkeypatch.setattr(connection, "goodbye", goodbye)
    connections.add(connection, "")
    running = asyncio.ensure_future(connections.run())
    await asyncio.sleep(0)
    connections.end(connection, 1012, "over")

    await asyncio.wait_for(connection.cut.wait(), 30)
    running.cancel()


async def test_streams_that_are_opened_together_do_not_grow_old_together() -> None:
    connections, never = Connections(Limits(100), 20, max_age=1_000), Connections(Limits(100), 20)
    now = asyncio.get_running_loop().time()
    for connection in (many := [Slow(1) for _ in range(10)]):
        connections.add(connection, "")
        never.add(connection, "")
    ends = [connections._open[connection].until - now for connection in many]

    assert all(500 <= end <= 1_100 for end in ends)
    assert max(ends) - min(ends) > 1
    assert {state.until for state in never._open.values()} == {math.inf}


async def test_a_stream_that_has_grown_old_is_told_to_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.001)
    connections, old, young = Connections(Limits(100), 20, max_age=1_000), Slow(1), Slow(1)
    for connection in (old, young):
        connections.add(connection, "")
    connections._open[old].until = 0
    running = asyncio.ensure_future(connections.run())
    await until(lambda: old.goodbyes)
    running.cancel()

    assert (old.goodbyes, young.goodbyes) == ([1012], [])


async def test_waiting_polls_and_open_streams_are_shown_by_the_metrics() -> None:
    connections, stream, shown = Connections(Limits(100), 20), Slow(1), metrics.CONNECTIONS

    def counts() -> tuple[float, float]:
        return shown["poll"].value, shown["sse"].value

    polls, streams = counts()
    with connections.counted("a", "ann", lambda *_: None):
        connections.add(stream, "")
        during = counts()
        connections.remove(stream)

    assert during == (polls + 1, streams + 1)
    assert counts() == (polls, streams)


def test_a_poll_is_counted_while_it_waits_and_only_if_there_is_room() -> None:
    connections = Connections(Limits(1), 20)
    with (
        connections.counted("a", "ann", lambda *_: None),
        pytest.raises(Unavailable, match="1 connections are open"),
        connections.counted("b", "bob", lambda *_: None),
    ):
        pass

    assert connections.count == 0


async def test_a_counted_connection_can_be_asked_to_end() -> None:
    connections = Connections(Limits(100), 20)
    ended = []
    with connections.counted("a", "ann", lambda code, reason: ended.append((code, reason))):
        for end in connections.endings():
            end(1012, "over")

    assert ended == [(1012, "over")]
    assert connections.endings() == []
