"""Compare source trees: the gateway's CPU for an event to one of 2,000 clients, in turns of 400 events, beside the program ``limit``.

python loadtest/experiments/gathered-reads/turns.py <folder of fan and limit, built> <name>=<tree> ... [--turns 40] [--rate 2000]

Where a name ends in -sse, the clients use SSE. Turns are short, so that other work on the machine disturbs all alike; the middle half of
them counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from gateway.embedded import free_port

CLIENTS, EVENTS = 2_000, 400
CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gateway.cli import main; main()"


def cpu(pid: int) -> float:
    """Microseconds of CPU that a process has used."""
    return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e3


class Target:
    """A server with its clients."""

    def __init__(self, programs: Path, name: str, tree: str, redis_port: int) -> None:
        port, self.name, self.sent = free_port(), name, 0
        self.prefix = name.replace("-", "_")
        url = f"redis://127.0.0.1:{redis_port}"
        settings = {"REDIS_URL": url, "AUTH": "none", "LOG_LEVEL": "error", "PREFIX": self.prefix}
        environment = os.environ | {f"GATEWAY_{key}": value for key, value in settings.items()}
        words = [sys.executable, "-c", CODE, tree, "serve", "--host", "127.0.0.1", "--port", str(port)]
        if not tree:
            words = [str(programs / "limit"), str(port), str(redis_port), self.prefix]
        self.server = subprocess.Popen(words, env=environment, cwd=tree or None)
        time.sleep(3)
        sse = name.endswith("-sse")
        path = f"/{'sse' if sse else 'ws'}?channel=bench:%d" + ("&since=now" if tree else "")
        words = ["-p", str(port), "-n", str(CLIENTS), "--path", path, "--ready", "ready", "--expect", "1000000000", "--timeout", "600"]
        self.fan = subprocess.Popen([str(programs / "fan"), *words, *["--sse"] * sse], stdout=subprocess.PIPE)
        assert self.fan.stdout is not None
        self.fan.stdout.readline()
        self.recorded = bool(tree)

    def publish(self, client: redis.Redis, rate: float) -> float:
        """Publish ``EVENTS`` events at this rate; microseconds of the server's CPU for each."""
        before, start = cpu(self.server.pid), time.time()
        for number in range(1, EVENTS + 1):
            self.sent += 1
            channel = f"bench:{self.sent * 7919 % CLIENTS}"
            event = json.dumps({"type": "progress", "data": {"n": self.sent, "t": f"t={time.time_ns()};", "p": "x" * 120}})
            if self.recorded:
                client.execute_command("FCALL", f"{self.prefix}_publish", 1, channel, event)
            else:
                client.publish(f"{self.prefix}:{channel}", event)
            time.sleep(max(0.0, start + number / rate - time.time()))
        time.sleep(0.01)
        return (cpu(self.server.pid) - before) / EVENTS

    def stop(self) -> None:
        for process in (self.fan, self.server):
            process.kill()
            process.wait()


def middle(values: Sequence[float]) -> float:
    """The mean of the middle half."""
    quarter = len(values) // 4
    return statistics.mean(sorted(values)[quarter : len(values) - quarter])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("trees", nargs="+")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--rate", type=float, default=2_000)
    options = parser.parse_args()
    port = free_port()
    targets: list[Target] = []
    with tempfile.TemporaryDirectory() as folder:
        program = shutil.which("redis-server") or "valkey-server"
        server = subprocess.Popen([program, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            client = redis.Redis(port=port)
            for tree in ["limit=", *options.trees]:
                name, _, path = tree.partition("=")
                targets.append(Target(options.programs.absolute(), name, path, port))
            times = {target.name: list[float]() for target in targets}
            for turn in range(options.turns):
                first = turn % len(targets)
                for target in targets[first:] + targets[:first]:
                    times[target.name].append(target.publish(client, options.rate))
        finally:
            for target in targets:
                target.stop()
            server.kill()
            server.wait()
    floor = middle(times["limit"])
    for name, found in times.items():
        print(f"{name:16s} {middle(found):5.1f} us/event = {middle(found) / floor:.2f} x limit")


main()
