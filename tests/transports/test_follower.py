"""What an event stream and a WebSocket have in common."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway import Settings, create_app
from gateway.core.event import Event, Published
from gateway.core.grant import Grant, Patterns
from gateway.core.page import Answer, make_page
from gateway.core.wire import BLOCK, TEXT
from gateway.errors import RESTART
from gateway.transports.follower import Follower
from gateway.transports.services import Services
from gateway.transports.sse import Stream
from gateway.transports.websocket import Socket
from gateway.transports.writer import Message, SendWriter


class Client:
    """A client over a foreign server, which takes nothing until the writer runs."""

    def __init__(self, kind: type[Stream | Socket]) -> None:
        self.got = b""
        self.services: Services = create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none")).services
        self.writer = SendWriter(self._take, lambda data: {"type": "", "body": data}, join=True)
        grant = Grant(subject="ann", subscribe=Patterns(), expires=time.time() + 60)
        wire = BLOCK if kind is Stream else TEXT
        self.stream: Follower = kind(self.services, grant, self.writer, self._take, wire, until_final=False)
        self.stream.open("192.0.2.1", {"jobs:1": 0}, time.perf_counter())

    async def _take(self, message: Message) -> None:
        self.got += message.get("body", b"")

    def go_live(self) -> None:
        subscription = self.stream.subscription
        subscription.begin_read()
        page = make_page(0, Answer(10, (), 0, False, False, []))
        subscription.end_read({subscription.cursors["jobs:1"]: page}, 0)

    def held(self) -> tuple[int, int, int]:
        return self.services.connections.count, len(self.services.access._holders), self.services.feed.hub.following


@pytest.fixture(params=[Stream, Socket], ids=["sse", "ws"])
async def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


async def test_a_client_is_counted_watched_over_and_read_for_until_it_leaves(client: Client) -> None:
    there = client.held()
    client.writer.on_gone()

    assert (there, client.held()) == ((1, 1, 1), (0, 0, 0))


async def test_a_client_is_given_nothing_more_while_its_goodbye_waits_to_be_taken(client: Client) -> None:
    client.go_live()
    goodbye = asyncio.ensure_future(client.stream.goodbye(RESTART, "reconnect"))
    await asyncio.sleep(0)
    client.services.feed.hub.announce(Event("jobs:1", 20, 0, Published("late")))
    writing = asyncio.ensure_future(client.writer.run())
    await goodbye
    writing.cancel()

    assert b"ready" in client.got
    assert b"late" not in client.got
