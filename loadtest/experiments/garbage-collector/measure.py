"""Do gc.freeze and higher thresholds pay? CPU for a handshake when many clients come at once.

uv run --group loadtest python loadtest/experiments/garbage-collector/measure.py        two minutes
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from gateway.server import run as server  # noqa: E402
from loadtest.compare.measure import compile_programs, run  # noqa: E402
from loadtest.compare.target import GATEWAY, Place, Target  # noqa: E402
from loadtest.compare.work import Work  # noqa: E402

PYTHONS: Final = (700, 10, 10)
ROUNDS: Final = 3
CLIENTS: Final = (2_000, 10_000)


def _nothing() -> None:
    pass


WAYS: Final[dict[str, tuple[tuple[int, int, int], Callable[[], None]]]] = {
    "as Python does it": (PYTHONS, _nothing),
    "gc.freeze()": (PYTHONS, gc.freeze),
    "higher thresholds": (server.COLLECT_AFTER, _nothing),
    "both": (server.COLLECT_AFTER, gc.freeze),
    "no collector": ((0, 0, 0), gc.freeze),
}


def serve() -> None:
    """Run the gateway with the settings of the garbage collector named in WAY."""
    server.COLLECT_AFTER, gc.freeze = WAYS[os.environ["WAY"]]  # type: ignore[misc]
    from gateway.cli import main  # noqa: PLC0415

    main(sys.argv[1:])


def with_way(target: Target, way: str) -> Target:
    """The target with other settings of the garbage collector."""

    def command(place: Place) -> list[str]:
        words = list(target.command(place))
        at = words.index("-m")
        return ["env", f"WAY={way}", *words[1:at], __file__, *words[at + 2 :]]

    return replace(target, command=command)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_server() as url:
        compile_programs(Path(folder))
        for clients in CLIENTS:
            costs: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(ROUNDS):
                for way in WAYS:
                    row = run(with_way(GATEWAY[0], way), Work(clients=clients, events=1, rate=1), Path(folder), url)
                    costs[way].append(row.us_per_connection)
            for way, found in costs.items():
                print(f"{clients:,} clients, {way}: {' '.join(f'{each:.0f}' for each in found)} us for each", flush=True)


if __name__ == "__main__":
    serve() if len(sys.argv) > 1 else main()
