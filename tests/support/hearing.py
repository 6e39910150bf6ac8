"""Hear what is announced on a pub/sub channel, and what is not, without waiting for a time that a busy machine may exceed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import redis


@contextlib.contextmanager
def hearing(client: redis.Redis, channel: str) -> Iterator[Callable[[], list[bytes]]]:
    """Listen while the context is open; what it gives returns all that was announced since its last call.

    The server answers a ping on the same connection after everything that it has announced before, so nothing can come late.
    """
    pubsub = client.pubsub()

    def heard() -> list[bytes]:
        pubsub.ping()
        messages = iter(lambda: pubsub.get_message(timeout=30), None)
        before = itertools.takewhile(lambda message: message["type"] != "pong", messages)
        return [message["data"] for message in before if message["type"] == "message"]

    with contextlib.closing(pubsub):
        pubsub.subscribe(channel)
        heard()  # so that it is subscribed
        yield heard
