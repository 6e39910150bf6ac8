"""What does it cost to receive an announcement from Redis? Compares redis-py's pub/sub with the gateway's listener.

uv run python loadtest/experiments/redis-listener/measure.py        a minute
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import redis
import uvloop
from redis.asyncio import Redis

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from gateway.store.listener import Listener  # noqa: E402

MESSAGES: Final = 40_000
AT_ONCE: Final = 100
PAUSE: Final = 0.01  # between bursts of 100 messages: 10,000 a second
ROUNDS: Final = 3
PAYLOAD: Final = b'1795215462557031 1795215462557030\n{"type":"progress","data":{"percent":40,"text":"converting page after page"}}'


def publish(url: str) -> None:
    """Publish from a process of its own, whose CPU is not counted."""
    with redis.Redis.from_url(url) as client:
        for _ in range(MESSAGES // AT_ONCE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(AT_ONCE):
                pipeline.publish("notify:a", PAYLOAD)
            pipeline.execute()
            time.sleep(PAUSE)


class Count:
    """Counts the messages that have arrived."""

    def __init__(self) -> None:
        self.heard = 0
        self.all = asyncio.Event()

    def hear(self, *_: Any) -> None:
        self.heard += 1
        if self.heard == MESSAGES:
            self.all.set()


@asynccontextmanager
async def listen(url: str, protocol: int, count: Count) -> AsyncIterator[None]:
    """Receive with redis-py, as its documentation shows."""
    async with Redis.from_url(url, protocol=protocol) as client, client.pubsub() as pubsub:
        await pubsub.subscribe("notify:a")

        async def run() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    count.hear()

        task = asyncio.create_task(run())
        yield
        task.cancel()


@asynccontextmanager
async def ours(url: str, protocol: int, count: Count) -> AsyncIterator[None]:
    """Receive with the gateway's listener."""

    async def nothing() -> None:
        pass

    async with Redis.from_url(url, protocol=protocol) as client:
        listener = Listener(client, "notify", on_message=count.hear, on_lost=lambda: None, on_connected=nothing)
        listener.subscribe("a")
        task = asyncio.create_task(listener.run())
        await listener.confirmed(["a"])
        yield
        task.cancel()
        await asyncio.wait([task])


async def measure(way: Callable[..., Any], url: str, protocol: int) -> float:
    """Microseconds of CPU for each message."""
    count = Count()
    async with way(url, protocol, count), asyncio.timeout(60):
        publisher = await asyncio.create_subprocess_exec(sys.executable, __file__, url)
        before = time.process_time()
        await count.all.wait()
        used = time.process_time() - before
        await publisher.wait()
    return used / MESSAGES * 1e6


def main() -> None:
    ways = {"redis-py, RESP3": (listen, 3), "redis-py, RESP2": (listen, 2), "the gateway's": (ours, 2)}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    with embedded_server() as url:
        for _ in range(ROUNDS):
            for name, (way, protocol) in ways.items():
                costs[name].append(uvloop.run(measure(way, url, protocol)))
    for name, found in costs.items():
        print(f"{name}: {' '.join(f'{each:.2f}' for each in found)} us for each message")


if __name__ == "__main__":
    publish(sys.argv[1]) if len(sys.argv) > 1 else main()
