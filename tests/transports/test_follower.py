"""What an event stream and a WebSocket have in common."""

from __future__ import annotations

import pytest

from tests.conftest import Publish
from tests.support.clients import TRANSPORTS, ids
from tests.support.figures import figures_when
from tests.support.servers import Server


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_a_client_is_counted_from_its_beginning_to_its_end(server: Server, publish: Publish, transport: str) -> None:
    id = await publish(f"follower:{transport}", "started")
    messages = TRANSPORTS[transport](server.http, f"channel=follower:{transport}")
    first = [await anext(messages), await anext(messages)]
    there = await figures_when(server.http, lambda now: now["gateway_connections"] == 1)
    await messages.aclose()
    gone = await figures_when(server.http, lambda now: now["gateway_connections"] == 0)

    assert ids(first) == [id]
    assert (there["gateway_connections"], gone["gateway_connections"]) == (1, 0)
