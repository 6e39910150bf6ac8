"""The writer for ASGI servers that offer no direct writes."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from gateway.transports.writer import HIGH_BYTES, LOW_BYTES, SendWriter


class Client:
    """Takes what is sent, once it is let."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.may_take = asyncio.Event()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.may_take.wait()
        self.got.append(message["body"])


def writer(client: Client, *, join: bool) -> SendWriter:
    return SendWriter(client.send, lambda data: {"body": data}, join=join)


@pytest.mark.parametrize(("join", "expected"), [(True, [b"onetwothree", b"four"]), (False, [b"one", b"two", b"three", b"four"])])
async def test_bytes_leave_in_order(join: bool, expected: list[bytes]) -> None:
    client = Client()
    client.may_take.set()
    carrying = writer(client, join=join)
    for data in (b"one", b"two", b"three"):
        carrying.write(data)
    task = asyncio.ensure_future(carrying.run())
    await carrying.flushed()
    carrying.write(b"four")
    await carrying.flushed()
    task.cancel()

    assert client.got == expected
    assert (carrying.buffered(), carrying.taken()) == (0, 15)


async def test_who_has_written_nothing_waits_for_nothing() -> None:
    await asyncio.wait_for(writer(Client(), join=True).flushed(), 30)


async def test_a_writer_is_full_while_the_client_does_not_read() -> None:
    client = Client()
    said: list[str] = []
    buffered: list[int] = []
    carrying = writer(client, join=False)

    def note(what: str) -> None:
        said.append(what)
        buffered.append(carrying.buffered())

    carrying.on_full = lambda: note("full")
    carrying.on_room = lambda: note("room")
    task = asyncio.ensure_future(carrying.run())
    for _ in range(2 * HIGH_BYTES // 1_000):
        carrying.write(b"x" * 1_000)
    waiting = (list(said), carrying.buffered() > HIGH_BYTES)
    client.may_take.set()
    await carrying.flushed()
    task.cancel()

    assert waiting == (["full"], True)
    assert said == ["full", "room"]
    assert HIGH_BYTES < buffered[0] <= HIGH_BYTES + 1_000
    assert LOW_BYTES - 1_000 <= buffered[1] < LOW_BYTES
    assert carrying.buffered() < LOW_BYTES


async def test_an_abort_is_reported_and_nothing_else() -> None:
    carrying = writer(Client(), join=False)
    reported = asyncio.ensure_future(carrying.aborted())
    carrying.write(b"one")
    await asyncio.sleep(0)
    before = reported.done()
    carrying.abort()
    await asyncio.wait_for(reported, 30)

    assert not before
