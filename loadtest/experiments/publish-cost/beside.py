"""What does a recorded publish cost Redis beside Centrifuge's, which keeps its history in a stream? And beside a bare PUBLISH.

(cd loadtest/experiments/publish-cost/centrifuge && go mod tidy && go build -o /tmp/centrifuge-publish .)
python loadtest/experiments/publish-cost/beside.py /tmp/centrifuge-publish [redis-server or valkey-server]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import redis
from server import any_server, running

from gateway.store.library import Library

PORT = 7612
ROUNDS, EVENTS, RATE, AT_ONCE = 5, 8_000, 2_000, 100

Events = list[tuple[str, str]]


def events() -> Events:
    """Channels and events, as ``bench.py unicast`` has them."""
    text = {"type": "progress", "data": {"p": "x" * 150}}
    return [(f"bench:{number % 2_000}", json.dumps(text | {"data": {"n": number, **text["data"]}})) for number in range(EVENTS)]


def commands(client: redis.Redis, *command: object) -> Callable[[int], None]:
    """Publishes all events with this command, so many at once, at ``RATE`` if one by one."""

    def publish(at_once: int) -> None:
        todo, began = events(), time.perf_counter()
        for begin in range(0, EVENTS, at_once):
            if at_once == 1:
                time.sleep(max(0.0, began + begin / RATE - time.perf_counter()))
                client.execute_command(*command, *todo[begin])
                continue
            pipeline = client.pipeline(transaction=False)
            for channel, event in todo[begin : begin + at_once]:
                pipeline.execute_command(*command, channel, event)
            pipeline.execute()

    return publish


def costs(client: redis.Redis, publish: Callable[[int], object], at_once: int) -> float:
    """Microseconds of Redis's CPU for each event."""
    client.execute_command("FLUSHDB", "SYNC")
    before = client.info("cpu")
    publish(at_once)
    after = client.info("cpu")
    return sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys")) * 1e6 / EVENTS


def main() -> None:
    program, server = sys.argv[1], (sys.argv[2:] or [any_server()])[0]
    with running(server, PORT):
        client = redis.Redis(port=PORT)
        client.execute_command("FUNCTION", "LOAD", "REPLACE", Library("notify", 65_536).codes["notify"])
        ways: dict[str, Callable[[int], object]] = {
            "PUBLISH": commands(client, "PUBLISH"),
            "notify_publish": commands(client, "FCALL", "notify_publish", 1),
            "Centrifuge, stream": lambda at_once: subprocess.run(
                [program, f"127.0.0.1:{PORT}", str(EVENTS), str(at_once), str(RATE)], check=True, capture_output=True
            ),
        }
        found: dict[tuple[str, int], list[float]] = {(name, at_once): [] for at_once in (1, AT_ONCE) for name in ways}
        for _ in range(ROUNDS):
            for (name, at_once), values in found.items():
                values.append(costs(client, ways[name], at_once))
        for (name, at_once), values in found.items():
            every = " ".join(f"{value:.1f}" for value in values)
            print(f"{name:20} {at_once:3} at once: {statistics.median(values):5.1f} us  least {min(values):5.1f}  ({every})")


main()
