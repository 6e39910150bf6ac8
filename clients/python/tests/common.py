"""What the tests of publishers and of subscriptions share."""

import asyncio
import time

from notify_client import AsyncPublisher

from tests.support.slowness import slowness

LIMIT = 0.5

SECRET = "a secret of at least thirty-two bytes"
TRANSPORTS = ("ws", "sse")


class Twin:
    """AsyncPublisher with the blocking methods of Publisher, on an event loop of its own."""

    def __init__(self, *args, **kwargs):
        self._runner = asyncio.Runner()
        self._publisher = AsyncPublisher(*args, **kwargs)

    @property
    def dropped(self):
        return self._publisher.dropped

    def publish(self, *args, **kwargs):
        return self._runner.run(self._publisher.publish(*args, **kwargs))

    def live(self, *args, **kwargs):
        return self._runner.run(self._publisher.live(*args, **kwargs))

    def close(self):
        self._runner.run(self._publisher.close())
        self._runner.close()


def soon(slack=0.5):
    """What a call that may last ``LIMIT`` must not exceed, here and now."""
    return LIMIT + slack * slowness()


def timed(call, *args, **kwargs):
    began = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - began


def publish_until_taken(publisher, seconds=30):
    deadline = time.monotonic() + seconds
    while (id := publisher.publish("jobs:1", "probe")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return id


async def take(events, count):
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(count)]
