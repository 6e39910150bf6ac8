"""Compare the gateway with a C loop and with those of its peers that are installed; write docs/performance.md and its plot.

    uv run --group loadtest python loadtest/compare/run.py            takes some minutes
    uv run --group loadtest python loadtest/compare/run.py --small    only the gateway and the C loop, in some seconds; writes no file

It needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from loadtest.compare.measure import Failed, compile_programs, run  # noqa: E402
from loadtest.compare.report import Results, median_row, plot, section, table, write  # noqa: E402
from loadtest.compare.target import FLOOR, GATEWAY, OTHERS, Target  # noqa: E402
from loadtest.compare.work import Row, Work  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"


def measure(targets: list[Target], works: list[Work], rounds: int) -> tuple[dict[Work, Results], dict[str, str]]:
    """Measure all targets in turn, round by round.

    Returns:
        the results for each kind of work, and for each target that failed the reason
    """
    rows: dict[tuple[Work, str], list[Row]] = defaultdict(list)
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, embedded_server() as redis_url:
        compile_programs(Path(folder))
        for number, work, target in itertools.product(range(rounds), works, targets):
            if target.name in failed:
                continue
            print(f"{number + 1}/{rounds} {target.name}: {work}", file=sys.stderr, flush=True)
            try:
                rows[work, target.name].append(run(target, work, Path(folder), redis_url))
            except Failed as error:
                failed[target.name] = f"{work}: {error}"
    measured = [target for target in targets if target.name not in failed]
    return {work: [median_row(rows[work, target.name], rows[work, FLOOR.name]) for target in measured] for work in works}, failed


def main() -> int:
    """Measure and report; the exit code is 1 if the gateway or the C loop could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="only the gateway and the C loop, in some seconds; writes no file")
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--events", type=int, default=60, help="events, with all clients in one room")
    parser.add_argument("--rate", type=float, default=15.0, help="events a second, with all clients in one room")
    parser.add_argument("--own-events", type=int, default=8_000, help="events, with a room for each client")
    parser.add_argument("--own-rate", type=float, default=2_000.0, help="events a second, with a room for each client")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        print("Linux and a C compiler are needed: apt-get install gcc libc6-dev", file=sys.stderr)
        return 1
    if options.small:
        together, alone = Work(clients=300, events=60, rate=60.0), Work(clients=300, events=2_000, rate=1_000.0, rooms=300)
        targets, rounds = [FLOOR, *GATEWAY], 1
    else:
        together = Work(clients=options.clients, events=options.events, rate=options.rate)
        alone = Work(clients=options.clients, events=options.own_events, rate=options.own_rate, rooms=options.clients)
        targets, rounds = [FLOOR, *GATEWAY, *OTHERS], options.rounds
    versions = {target.name: version for target in targets if (version := target.version()) is not None}
    absent = {target.name: f"not installed ({target.install})" for target in targets if target.name not in versions}
    results, failed = measure([target for target in targets if target.name in versions], [together, alone], rounds)
    if options.small:
        for work, rows in results.items():
            print(f"{work}:\n\n{table(rows, versions)}\n")
    else:
        write(PAGE, section(results, versions, absent | failed, rounds))
        plot(results[together], results[alone], PAGE.with_suffix(".png"))
        print(PAGE.read_text())
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return int(any(target.name in failed for target in (FLOOR, *GATEWAY)))


if __name__ == "__main__":
    sys.exit(main())
