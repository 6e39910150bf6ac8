"""Receiving replies: one at a time, or gathered on a busy connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.store.receiver import GATHER_SECONDS, MESSAGES_AT_ONCE, TOGETHER, Lost, Receiver, next_pause

MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n"


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """A transport, and the socket at the other end of its connection."""
    near, far = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    try:
        yield transport, far
    finally:
        transport.abort()
        far.close()


async def test_messages_of_a_busy_connection_are_gathered_and_a_single_one_is_not_delayed() -> None:
    listened: list[bool] = []
    came = asyncio.Event()
    async with connected() as (transport, server), asyncio.timeout(30):

        def take(_reply: object) -> None:
            listened.append(transport.is_reading())
            came.set()

        receiver = Receiver(take, transport)
        transport.set_protocol(receiver)
        sent = 0
        while all(listened):  # a few times, if the machine does not sleep between two of them
            server.send(MESSAGE)
            sent += 1
            await came.wait()
            came.clear()
        while not transport.is_reading():
            await asyncio.sleep(0.01)

    assert listened[0]
    assert len(listened) == sent
    assert GATHER_SECONDS[0] <= receiver._gather <= GATHER_SECONDS[1]


def pauses_at(rate: float, pause: float, seconds: float) -> list[float]:
    """The pauses while this many messages come each second."""
    pauses = []
    while seconds > 0:
        pause = next_pause(pause, max(1, round(rate * pause)))
        pauses.append(pause)
        seconds -= pause
    return pauses


@pytest.mark.parametrize("rate", [100, 1_000, 3_000, 4_000, 5_000, 20_000])
@pytest.mark.parametrize("before", GATHER_SECONDS)
def test_the_pause_settles_where_twelve_messages_come_in_it(rate: float, before: float) -> None:
    shortest, longest = GATHER_SECONDS

    settled = pauses_at(rate, before, 1.0)[-20:]

    wanted = min(longest, max(shortest, TOGETHER / rate))
    assert all(wanted * 0.9 <= pause <= wanted * 1.1 for pause in settled)


def test_a_pause_grows_little_by_little_and_shrinks_at_once() -> None:
    shortest, longest = GATHER_SECONDS

    after_a_slow_moment = next_pause(0.003, 1)
    after_a_burst = next_pause(longest, MESSAGES_AT_ONCE)

    assert 0.003 < after_a_slow_moment < 0.0033
    assert after_a_burst == shortest


async def test_the_pause_before_the_next_read_follows_what_the_last_one_has_brought() -> None:
    taken: list[object] = []
    async with connected() as (transport, server):
        receiver = Receiver(taken.append, transport)
        before = receiver._gather
        transport.pause_reading()
        server.send(MESSAGE * 3 * TOGETHER)
        receiver.heard_at = 0.0
        receiver._read_gathered()

    assert receiver.heard_at > 0  # or a connection that is busy for long would count as gone
    assert len(taken) == 3 * TOGETHER
    assert receiver._gather == next_pause(before, 3 * TOGETHER) < before


async def test_a_message_beyond_a_full_batch_is_received_too() -> None:
    taken: list[object] = []
    async with connected() as (transport, server), asyncio.timeout(30):
        transport.set_protocol(Receiver(taken.append, transport))
        server.send(MESSAGE * MESSAGES_AT_ONCE)
        while len(taken) < MESSAGES_AT_ONCE:
            await asyncio.sleep(0.001)
        server.send(MESSAGE)

        while len(taken) == MESSAGES_AT_ONCE:
            await asyncio.sleep(0.001)


async def test_a_message_soon_after_the_last_pause_begins_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.receiver.BUSY_SECONDS", 60)
    async with connected() as (transport, _server):
        receiver = Receiver(print, transport)
        transport.set_protocol(receiver)
        receiver._listening_since = -60
        transport.pause_reading()
        pauses: list[object] = []
        monkeypatch.setattr(receiver._loop, "call_later", lambda *pause: pauses.append(pause))
        receiver._read_gathered()
        before = transport.is_reading(), len(pauses)
        receiver.data_received(MESSAGE)

        assert before == (True, 0)
        assert (transport.is_reading(), len(pauses)) == (False, 1)


async def test_nothing_more_is_read_until_the_rest_of_a_burst_is_taken() -> None:
    taken: list[object] = []
    async with connected() as (transport, _server), asyncio.timeout(30):
        receiver = Receiver(taken.append, transport)
        transport.set_protocol(receiver)
        receiver.data_received(MESSAGE * 2 * MESSAGES_AT_ONCE)
        read_on = transport.is_reading()
        while not transport.is_reading():
            await asyncio.sleep(0)

    assert not read_on
    assert len(taken) == 2 * MESSAGES_AT_ONCE


async def test_any_bytes_are_a_sign_of_life() -> None:
    async with connected() as (transport, _server):
        receiver = Receiver(print, transport)
        receiver.heard_at = 0.0
        receiver.data_received(b"+PO")

    assert receiver.heard_at > 0


async def test_bytes_that_are_not_redis_lose_the_connection() -> None:
    async with connected() as (transport, server), asyncio.timeout(30):
        receiver = Receiver(print, transport)
        transport.set_protocol(receiver)
        server.send(b"HTTP/1.1 400 Bad Request\r\n")

        with pytest.raises(Lost, match="not Redis's protocol"):
            await receiver.wait()


async def test_the_end_of_a_busy_connection_is_noticed() -> None:
    async with connected() as (transport, server), asyncio.timeout(30):
        receiver = Receiver(lambda _reply: None, transport)
        transport.set_protocol(receiver)
        while transport.is_reading():
            server.send(b"+PONG\r\n")
            await asyncio.sleep(0)
        server.close()

        with pytest.raises(Lost, match="closed"):
            await receiver.wait()


async def test_after_a_burst_no_pause_begins_before_its_rest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.receiver.BUSY_SECONDS", 60)
    taken: list[object] = []
    pauses: list[object] = []
    async with connected() as (transport, server), asyncio.timeout(30):
        receiver = Receiver(taken.append, transport)
        transport.set_protocol(receiver)
        monkeypatch.setattr(receiver._loop, "call_later", lambda *pause: pauses.append(pause))
        receiver._resume()
        receiver.data_received(MESSAGE * 2 * MESSAGES_AT_ONCE)
        while not transport.is_reading():
            await asyncio.sleep(0)
        transport.pause_reading()
        server.send(MESSAGE * 2 * MESSAGES_AT_ONCE)
        receiver._read_gathered()
        while not transport.is_reading():
            await asyncio.sleep(0)

    assert len(taken) == 4 * MESSAGES_AT_ONCE
    assert pauses == []


async def test_messages_left_in_a_closed_connection_are_not_received() -> None:
    taken: list[object] = []
    async with connected() as (transport, server), asyncio.timeout(30):
        receiver = Receiver(taken.append, transport)
        transport.set_protocol(receiver)
        waiting = asyncio.ensure_future(receiver.wait())
        await asyncio.sleep(0)
        receiver.data_received(MESSAGE * 2 * MESSAGES_AT_ONCE)
        waiting.cancel()
        await asyncio.wait([waiting])
        receiver.data_received(MESSAGE)
        server.send(MESSAGE)
        receiver._read_gathered()
        await asyncio.sleep(0)

    assert len(taken) == MESSAGES_AT_ONCE
