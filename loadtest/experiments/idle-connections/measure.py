"""What does a gateway do when nothing happens? Microseconds of CPU a second for each idle connection.

uv run --group loadtest python loadtest/experiments/idle-connections/measure.py [--clients 10000]        a minute and a half
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from loadtest.compare.measure import compile_programs, cpu, started  # noqa: E402
from loadtest.compare.target import GATEWAY  # noqa: E402

SECONDS = 20.0  # every client gets one heartbeat in this time


def idle(clients: int, folder: Path, redis_url: str, target: int) -> float:
    """Microseconds of CPU in a second with so many clients that follow one channel."""
    with tempfile.TemporaryDirectory(dir=folder) as own, started(GATEWAY[target], Path(own), folder, redis_url) as (place, server):
        words = [folder / "subscribers", place.port, max(1, clients), 1, 300, "ready", GATEWAY[target].request(place.port)]
        with subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ready = process.stdout.readline().split()
            assert ready == ["ready", str(max(1, clients))], ready
            time.sleep(2)
            before, began = cpu(server), time.monotonic()
            time.sleep(SECONDS)
            used = (cpu(server) - before) / 1e3 / (time.monotonic() - began)
            process.kill()
            return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded_server() as redis_url:
        compile_programs(Path(folder))
        empty = idle(0, Path(folder), redis_url, 0)
        print(f"no client: {empty / 1e3:.2f} ms of CPU a second")
        for number, target in enumerate(GATEWAY):
            used = idle(options.clients, Path(folder), redis_url, number)
            each = (used - empty) / options.clients
            print(f"{target.name}, {options.clients:,} clients: {used / 1e3:.2f} ms of CPU a second, {each:.3f} us for each client")


if __name__ == "__main__":
    main()
