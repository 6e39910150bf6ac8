"""Which Python? What a handshake and an event cost with each of the given interpreters.

for version in 3.11 3.12 3.13; do uv venv --python $version /tmp/$version && uv pip install --python /tmp/$version/bin/python -e .; done
uv run --group loadtest python loadtest/experiments/python-versions/measure.py /tmp/3.*/bin/python        four minutes
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from loadtest.compare.measure import compile_programs, run  # noqa: E402
from loadtest.compare.target import GATEWAY, Place, Target  # noqa: E402
from loadtest.compare.work import Row, Work  # noqa: E402

ROUNDS: Final = 3
TOGETHER: Final = Work(clients=2_000, events=60, rate=15)
ALONE: Final = Work(clients=2_000, events=6_000, rate=2_000, rooms=2_000)


def with_python(target: Target, python: str) -> Target:
    """The gateway under this interpreter."""

    def command(place: Place) -> list[str]:
        return [python if word == sys.executable else word for word in target.command(place)]

    return replace(target, command=command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    rows: dict[tuple[str, str], list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder, embedded_server() as redis_url:
        compile_programs(Path(folder))
        for _ in range(options.rounds):
            for python in options.pythons:
                socket, stream = (with_python(target, python) for target in GATEWAY)
                for name, target, work in (("ws", socket, TOGETHER), ("sse", stream, TOGETHER), ("own", socket, ALONE)):
                    rows.setdefault((python, name), []).append(run(target, work, Path(folder), redis_url))
    print("| | fan-out WebSocket, us/event | SSE | one by one | handshake WebSocket, us | SSE | KiB/connection |\n|" + " --- |" * 7)
    for python in options.pythons:
        version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
        cells = [
            " ".join(f"{getattr(row, column):.1f}" for row in rows[python, name])
            for name, column in (("ws", "us_per_event"), ("sse", "us_per_event"), ("own", "us_per_event"))
        ]
        cells += [f"{median(row.us_per_connection for row in rows[python, name]):.0f}" for name in ("own", "sse")]
        cells += [f"{median(row.kib_per_connection for row in rows[python, 'own']):.1f}"]
        print(f"| {version} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
