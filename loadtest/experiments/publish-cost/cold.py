"""What does a publish cost a Redis that was idle before it? CPU of its main thread for each call; variants take turns call by call (Linux).

python loadtest/experiments/publish-cost/cold.py redis-server [folder with a publish.lua and a read.lua] ...
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
import redis
from server import running

import gateway.store.library
from gateway.store.library import Library

PORT, RATE, SECONDS = 7617, 2_000, 20
NOTHING = "#!lua name=nothing\nredis.register_function('nothing', function() return '1' end)\n"

Variants = dict[str, Callable[[str, str], tuple[Any, ...]]]


def load(client: redis.Redis, folders: list[str]) -> Variants:
    """The commands by name: a plain PUBLISH, a function that does nothing, and each folder's publish, under a prefix of its own."""
    client.execute_command("FUNCTION", "LOAD", NOTHING)
    variants: Variants = {
        "PUBLISH": lambda channel, event: ("PUBLISH", f"notify:{channel}", event),
        "nothing": lambda channel, event: ("FCALL", "nothing", 1, channel, event),
    }
    for i, folder in enumerate(folders):
        library = Library(f"variant{i}", 65_536, folder=Path(folder))
        client.execute_command("FUNCTION", "LOAD", library.codes[f"variant{i}"])
        variants[folder] = lambda channel, event, i=i: ("FCALL", f"variant{i}_publish", 1, channel, event)  # type: ignore[misc]
    return variants


def run(process: int, variants: Variants) -> dict[str, list[float]]:
    """Microseconds of CPU for each call."""
    connection = socket.create_connection(("127.0.0.1", PORT))
    figures = Path(f"/proc/{process}/schedstat")
    costs: dict[str, list[float]] = {name: [] for name in variants}
    started = time.perf_counter()
    for i in range(RATE * SECONDS):
        name = list(variants)[i % len(variants)]
        event = json.dumps({"type": "progress", "data": {"n": i, "t": f"t={time.time_ns()};", "p": "x" * 120}})
        command = hiredis.pack_command(variants[name](f"bench:{i // len(variants) * 7919 % 2000}", event))  # type: ignore[arg-type]
        time.sleep(max(0.0, started + i / RATE - time.perf_counter()))
        before = int(figures.read_text().split()[0])
        connection.sendall(command)
        assert not connection.recv(4_096).startswith(b"-")
        time.sleep(max(0.0, started + (i + 0.7) / RATE - time.perf_counter()))
        costs[name].append((int(figures.read_text().split()[0]) - before) / 1e3)
    return costs


def main() -> None:
    folders = sys.argv[2:] or [str(Path(gateway.store.library.__file__).parent)]
    with running(sys.argv[1], PORT) as process:
        for name, costs in run(process.pid, load(redis.Redis(port=PORT), folders)).items():
            costs.sort()
            tenth, quarter, middle = (costs[int(len(costs) * part)] for part in (0.1, 0.25, 0.5))
            print(f"{name}: {tenth:.1f} us in the best tenth, {quarter:.1f} in the best quarter, {middle:.1f} in the middle")


main()
