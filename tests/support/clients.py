"""Small clients for the three transports: each yields the events and notices of one connection as they arrive."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import websockets
from httpx_sse import aconnect_sse

Message = dict[str, Any]


async def websocket(address: str, query: str) -> AsyncGenerator[Message, None]:
    """The messages of a WebSocket."""
    async with websockets.connect(f"{address.replace('http', 'ws', 1)}/ws?{query}", max_size=None, open_timeout=60) as socket:
        async for text in socket:
            yield json.loads(text)


async def sse(address: str, query: str) -> AsyncGenerator[Message, None]:
    """The messages of an event stream; its notices have an ``op``, like those of a WebSocket."""
    async with httpx.AsyncClient(timeout=60) as client, aconnect_sse(client, "GET", f"{address}/sse?{query}") as source:
        source.response.raise_for_status()
        async for event in source.aiter_sse():
            yield event.json()


async def poll(address: str, query: str) -> AsyncGenerator[Message, None]:
    """The answers of long polling as messages like those of the other transports, with a ready notice after the first answer."""
    ready = False
    async with httpx.AsyncClient(timeout=90) as client:
        while True:
            answer = (await client.get(f"{address}/poll?{query}")).raise_for_status().json()
            for name in answer["gaps"]:
                yield {"op": "gap", "channel": name}
            for event in answer["events"]:
                yield event
            if not ready:
                ready = True
                yield {"op": "ready", "channels": answer["channels"]}
            if answer.get("done"):
                return
            until = "&until=final" if "until=final" in query else ""
            query = "&".join(f"channel={name},{cursor}" for name, cursor in answer["channels"].items()) + until


TRANSPORTS = {"ws": websocket, "sse": sse, "poll": poll}


async def take(messages: AsyncGenerator[Message, None], events: int = 0, *, ready: bool = False) -> list[Message]:
    """Read messages until this many events, and if ``ready`` also the ready notice, have arrived; then close the connection."""
    taken: list[Message] = []
    if events == 0 and not ready:
        return taken
    async with aclosing(messages):
        async for message in messages:
            taken.append(message)
            events -= "channel" in message and "op" not in message
            ready = ready and message.get("op") != "ready"
            if events <= 0 and not ready:
                break
    return taken


def ids(messages: list[Message], channel: str | None = None) -> list[str]:
    """The ids of the events among the messages."""
    return [m["id"] for m in messages if "op" not in m and (channel is None or m["channel"] == channel)]
