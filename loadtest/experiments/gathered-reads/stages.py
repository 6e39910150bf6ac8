"""What does an event cost from the bytes of Redis to the write, if this many KiB of other memory were read since the event before?

python loadtest/experiments/gathered-reads/stages.py [KiB]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from redis.asyncio import Redis

from gateway.core.wire import FRAME
from gateway.core.subscription import Subscription
from gateway.feed import Feed
from gateway.store.receiver import Receiver

CLIENTS, EVENTS = 2_000, 8_000


class Socket:
    """A transport that discards what is written and has nothing to read."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool:
        return True

    def write(self, data: bytes) -> None: ...
    def get_extra_info(self, name: str) -> bool:
        return name == "ssl_object"  # so that nothing else is read


def follow(feed: Feed, name: str) -> None:
    def nothing(*_: Any) -> None: ...

    subscription = Subscription(wire=FRAME, write=Socket().write, on_behind=nothing, on_done=nothing, on_failed=nothing)
    feed.follow(subscription, {name: 0})
    subscription.live = True
    for cursor in subscription.cursors.values():
        cursor.live, cursor.unread = True, False


def announcements() -> list[bytes]:
    id, before, found = 1_795_215_462_557_031, dict[str, int](), []
    for i in range(EVENTS):
        name = f"bench:{i * 7919 % CLIENTS}"
        id += 500
        event = json.dumps({"type": "progress", "data": {"n": i, "t": time.time_ns(), "p": "x" * 120}})
        payload, channel = f"{id} {before.get(name, 0)}\n{event}", f"notify:{name}"
        before[name] = id
        found.append(f"*3\r\n$7\r\nmessage\r\n${len(channel)}\r\n{channel}\r\n${len(payload)}\r\n{payload}\r\n".encode())
    return found


async def main() -> None:
    feed = Feed(Redis())
    for i in range(CLIENTS):
        follow(feed, f"bench:{i}")
    receiver = Receiver(feed.listener._take, Socket())  # type: ignore[arg-type]  # noqa: SLF001
    other = bytearray(int((sys.argv[1:] or ["0"])[0]) << 10)
    times = []
    for data in announcements():
        other.count(b"zz")
        begin = time.perf_counter()
        receiver.data_received(data)
        times.append(time.perf_counter() - begin)
    times.sort()
    print(" ".join(f"p{part} {times[EVENTS * part // 100] * 1e6:.1f}" for part in (5, 25, 50)), "us/event")


asyncio.run(main())
