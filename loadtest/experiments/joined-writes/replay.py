"""What does a client cost that reconnects and has missed some events?

uv run --group loadtest python loadtest/experiments/joined-writes/replay.py        half a minute
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import redis

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from gateway.store.library import Library  # noqa: E402
from loadtest.compare.measure import compile_programs, run  # noqa: E402
from loadtest.compare.target import GATEWAY  # noqa: E402
from loadtest.compare.work import Work  # noqa: E402

MISSED: Final = (0, 1, 10)
WORK: Final = Work(clients=1_000, events=1, rate=1)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_server() as url, redis.Redis.from_url(url) as client:
        compile_programs(Path(folder))
        client.execute_command("FUNCTION", "LOAD", "REPLACE", Library("notify", 65_536).codes["notify"])
        for missed in MISSED:
            client.flushdb()
            for _ in range(missed):
                client.execute_command(
                    "FCALL", "notify_publish", 1, "room", '{"type":"progress","data":{"percent":40,"pad":"%s"}}' % ("x" * 80)
                )
            for target in GATEWAY:
                costs = [run(replace(target, path=target.path.replace("now", "0")), WORK, Path(folder), url) for _ in range(3)]
                print(
                    f"{target.name}, {missed} events missed: {' '.join(f'{row.us_per_connection:.0f}' for row in costs)} us for each client"
                )


if __name__ == "__main__":
    main()
