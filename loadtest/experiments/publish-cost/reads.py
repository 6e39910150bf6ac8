"""What does a read of a log cost Redis? Time in the function, for short and long logs of small and large events.

python loadtest/experiments/publish-cost/reads.py [redis-server or valkey-server]
"""

from __future__ import annotations

import json
import sys
from typing import Any

import redis
from server import any_server, running

from gateway.store.library import Library

PORT, BYTES = 7613, 65_536
LIBRARY = Library("notify", 65_536)


def fill(client: redis.Redis, channel: str, count: int, size: int) -> list[str]:
    """Publish events of this size; their ids."""
    ids: list[str] = []
    for begin in range(0, count, 100):
        pipeline = client.pipeline(transaction=False)
        for i in range(begin, min(begin + 100, count)):
            event = json.dumps({"type": "progress", "data": {"n": i, "x": "x" * size}})
            pipeline.execute_command("FCALL", "notify_publish", 1, channel, event, "KEEP", 10_000)
        ids += [id.decode() for id in pipeline.execute()]
    return ids


def measure(client: redis.Redis, channel: str, since: str, times: int) -> tuple[float, int]:
    """The lowest of five rounds in microseconds, and the number of entries that were read."""
    rounds: list[float] = []
    answers: list[Any] = []
    for _ in range(5):
        client.config_resetstat()
        pipeline = client.pipeline(transaction=False)
        for _ in range(times):
            pipeline.execute_command(*LIBRARY.command("reads", 1, channel, since, BYTES))
        answers = pipeline.execute()
        rounds.append(client.info("commandstats")["cmdstat_fcall_ro"]["usec_per_call"])
    return min(rounds), len(answers[0][0]) - 4


def run(client: redis.Redis) -> None:
    for code in LIBRARY.codes.values():
        client.execute_command("FUNCTION", "LOAD", "REPLACE", code)
    logs = [("short", 5, 150, 300), ("usual", 100, 150, 300), ("large", 5_000, 8_000, 20), ("largest", 200, 64_000, 20)]
    for name, count, size, times in logs:
        ids = fill(client, name, count, size)
        places = {"the newest": "last", "nothing new": ids[-1], "the last three": ids[-4], "from the middle": ids[count // 2], "all": "0"}
        for place, since in places.items():
            cost, found = measure(client, name, since, times)
            print(f"{count:5} events of {size:6} bytes, {place:15}: {cost:8.1f} us, {found} entries")


def main() -> None:
    with running((sys.argv[1:] or [any_server()])[0], PORT):
        run(redis.Redis(port=PORT))


main()
