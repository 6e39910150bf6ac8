"""What does a handshake cost if the event loop accepts several connections in a turn? As handshake-cost/measure.py, of which this is a part.

    uv run python loadtest/experiments/accepted-at-once/measure.py
    uv run python loadtest/experiments/accepted-at-once/measure.py --at-once 1 --connections 300
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "handshake-cost"))

from measure import SWEEP_SECONDS, one_round

from gateway.embedded import embedded_server
from tests.support.servers import running_gateway
from tests.support.tokens import SECRET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accepted", default="1,2,4,8,16", help="how many connections are accepted in a turn")
    parser.add_argument("--kinds", default="sse-new-own,ws-new-own", help="as in handshake-cost/measure.py")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--at-once", type=int, default=200, help="handshakes on their way")
    parser.add_argument("--since", default="now")
    options = parser.parse_args()
    kinds, accepted = options.kinds.split(","), [int(text) for text in options.accepted.split(",")]
    found: dict[tuple[str, int], list[float]] = {(kind, count): [] for kind in kinds for count in accepted}
    with ExitStack() as stack:
        url = stack.enter_context(embedded_server())
        servers = {}
        for count in accepted:
            before = f"import gateway.server.run as r; r.ACCEPTED_AT_ONCE = {count}"
            settings = {"auth": "jwt", "jwt_secret": SECRET, "prefix": f"accepted{count}"}
            servers[count] = stack.enter_context(running_gateway(url, before=before, log_level="warning", **settings))
        for number in range(-1, options.rounds):
            for (kind, count), costs in found.items():
                cost = one_round(servers[count], kind, options)
                time.sleep(SWEEP_SECONDS / len(accepted))
                if number >= 0:  # the first round only warms up
                    costs.append(cost)
    for (kind, count), costs in found.items():
        every = " ".join(f"{cost:.0f}" for cost in costs)
        print(f"{kind:12} {count:2} accepted in a turn: {statistics.median(costs):6.1f} us  least {min(costs):6.1f}  ({every})", flush=True)


if __name__ == "__main__":
    main()
