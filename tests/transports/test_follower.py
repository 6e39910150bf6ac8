"""What an event stream and a WebSocket have in common."""

from __future__ import annotations

import time

from gateway import Settings, create_app
from gateway.core.grant import Grant, Patterns
from gateway.core.wire import BLOCK
from gateway.transports.sse import Stream
from gateway.transports.writer import Message, SendWriter


async def test_a_client_is_counted_watched_over_and_read_for_until_it_leaves() -> None:
    async def send(_: Message) -> None:
        """Take everything."""

    services = create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none")).services
    grant = Grant(subject="ann", subscribe=Patterns(), expires=time.time() + 60)
    writer = SendWriter(send, lambda data: {"body": data}, join=True)
    stream = Stream(services, grant, writer, send, BLOCK, until_final=False)

    def held() -> tuple[int, int, int]:
        return services.connections.count, len(services.access._holders), services.feed.hub.following

    stream.open("192.0.2.1", {"jobs:1": 0}, time.perf_counter())
    there = held()
    writer.on_gone()

    assert (there, held()) == ((1, 1, 1), (0, 0, 0))
