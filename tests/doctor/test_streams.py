"""The doctor's two streams, connected to a gateway without a proxy."""

from __future__ import annotations

import asyncio

import pytest

from gateway.doctor.streams import EventStream, Socket, Stream
from tests.conftest import Publish
from tests.support.listening import refusing_port
from tests.support.servers import Server

KINDS = pytest.mark.parametrize("kind", [Socket, EventStream])


@KINDS
async def test_it_notes_when_it_opened_and_when_each_event_came(server: Server, publish: Publish, kind: type[Stream]) -> None:
    async with kind(server.http, f"streams:{kind.name}", {}) as stream:
        await stream.ready.wait()
        id = await publish(f"streams:{kind.name}")
        async with asyncio.timeout(30):
            while id not in stream.events:
                stream.came.clear()
                await stream.came.wait()

        assert stream.ended is None
        assert stream.first is not None
        assert stream.heard == stream.events[id]


@KINDS
async def test_it_notes_why_it_did_not_open(server: Server, kind: type[Stream]) -> None:
    async with kind(server.http, "*", {}) as stream:
        await stream.ready.wait()

    assert stream.ended is not None
    assert stream.why.startswith("closed with 4400" if kind is Socket else "answered 400")


@KINDS
async def test_a_failed_connection_is_noted_too(kind: type[Stream]) -> None:
    with refusing_port() as port:
        async with kind(f"http://127.0.0.1:{port}", "doctor", {}) as stream:
            await stream.ready.wait()

    assert stream.why
    assert stream.status == 0
