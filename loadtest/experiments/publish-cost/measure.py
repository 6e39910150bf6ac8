"""What does a recorded publish cost Redis? Time in the function, CPU of the server, and bytes of a short channel.

python loadtest/experiments/publish-cost/measure.py [redis-server or valkey-server]
"""

from __future__ import annotations

import json
import sys
import time

import redis
from server import any_server, running

from gateway.store.library import Library

PORT, EVENTS = 7612, 8_000


def publish(client: redis.Redis) -> tuple[float, float]:
    client.execute_command("FLUSHDB", "SYNC")
    client.config_resetstat()
    before = client.info("cpu")
    for begin in range(0, EVENTS, 100):
        pipeline = client.pipeline(transaction=False)
        for i in range(begin, begin + 100):
            event = {"type": "progress", "data": {"n": i, "t": f"t={time.time_ns()};", "p": "x" * 120}}
            pipeline.execute_command("FCALL", "notify_publish", 1, f"bench:{i * 7919 % 2000}", json.dumps(event))
        pipeline.execute()
    after = client.info("cpu")
    cpu = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return client.info("commandstats")["cmdstat_fcall"]["usec_per_call"], cpu * 1e6 / EVENTS


def jobs(client: redis.Redis) -> float:
    before = client.info("memory")["used_memory"]
    for i in range(2_000):
        for kind in ("queued", "started", "progress", "progress", "completed"):
            event = {"type": kind, "data": {"percent": 40}} | ({"final": True} if kind == "completed" else {})
            client.execute_command("FCALL", "notify_publish", 1, f"jobs:{i}", json.dumps(event))
    return float((client.info("memory")["used_memory"] - before) / 2_000)


def main() -> None:
    with running((sys.argv[1:] or [any_server()])[0], PORT):
        client = redis.Redis(port=PORT)
        client.execute_command("FUNCTION", "LOAD", "REPLACE", Library("notify", 65_536).codes["notify"])
        publish(client)
        client.execute_command("FLUSHDB", "SYNC")
        size = jobs(client)
        function, cpu = min(publish(client) for _ in range(5))
        print(f"{function:.1f} us in the function, {cpu:.1f} us of CPU for a publish, {size:.0f} bytes for a job's channel")
        commands = client.info("commandstats")
        for name in sorted(commands, key=lambda name: -commands[name]["usec"])[:10]:
            print(name.removeprefix("cmdstat_"), commands[name]["calls"], commands[name]["usec_per_call"])


main()
