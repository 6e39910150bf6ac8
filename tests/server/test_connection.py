"""What all connections have in common: back-pressure and deadlines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.server.connection import Connection
from gateway.server.deadlines import Deadlines
from gateway.server.site import Site
from tests.support.waiting import until


class Listening(Connection):
    """A connection that keeps the bytes it receives and notes a missed deadline."""

    def __init__(self, site: Site, transport: asyncio.Transport) -> None:
        super().__init__(site)
        self.transport = transport
        self.came = b""
        self.late: list[Deadlines[Connection]] = []

    def data_received(self, data: bytes) -> None:
        self.came += data

    def on_late(self, deadline: Deadlines[Connection]) -> None:
        self.late.append(deadline)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Listening, socket.socket]]:
    async def app(scope: object, receive: object, send: object) -> None: ...

    here, there = socket.socketpair()
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=0)
    config.load()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, here)
    connection = Listening(Site(config, ServerState(), {}, loop), transport)
    transport.set_protocol(connection)
    with there:
        there.setblocking(False)
        yield connection, there
        transport.abort()
        await asyncio.sleep(0)


async def test_a_writer_that_waits_for_room_continues_once_there_is_some(pair: tuple[Listening, socket.socket]) -> None:
    connection, client = pair
    connection.transport.write(b"x" * 1_000_000)
    waited = connection.drained
    assert waited is not None

    async with asyncio.timeout(30):
        while not waited.done():
            await asyncio.get_running_loop().sock_recv(client, 65_536)
    assert connection.drained is None


async def test_data_of_a_paused_client_is_received_later_and_complete(pair: tuple[Listening, socket.socket]) -> None:
    connection, client = pair
    connection.pause_reading()
    connection.pause_reading()
    client.send(b"hello")
    await asyncio.sleep(0.05)
    before = connection.came
    connection.resume_reading()
    connection.resume_reading()

    await until(lambda: connection.came == b"hello")
    assert before == b""


async def test_only_the_newest_deadline_counts(pair: tuple[Listening, socket.socket]) -> None:
    connection, _ = pair
    site = connection.site
    connection._set_deadline(site.idle)
    connection._clear_deadline()
    connection._set_deadline(site.head)
    connection._set_deadline(site.idle)

    await until(lambda: connection.late)
    assert connection.late == [site.idle]
    assert not site.head._due
