"""The options that this load test adds to those of locust."""

from __future__ import annotations

from typing import Any


def add_options(parser: Any) -> None:
    """Add them to locust's parser; directly, because locust's web page does not show argument groups."""
    parser.add_argument(
        "--rate", type=float, default=10.0, help="events a second that each locust process publishes on its shared channels"
    )
    parser.add_argument("--channels", type=int, default=1, help="shared channels of each locust process")
    parser.add_argument("--event-bytes", type=int, default=100, help="padding in each event")
    parser.add_argument("--job-seconds", type=float, default=5.0, help="how long a job takes, from queued to completed")
    parser.add_argument("--storm", type=float, default=0.0, help="every so many seconds all clients drop and reconnect; 0: never")
    parser.add_argument(
        "--churn", type=float, default=0.0, help="average seconds after which a follower drops its connection and reconnects; 0: never"
    )
    parser.add_argument("--patience", type=float, default=10.0, help="seconds after the end until a missing event counts as lost")
    parser.add_argument("--redis-url", default="", help="publish through this Redis; without it, through POST /publish")
    parser.add_argument("--token", default="", is_secret=True, help="bearer token for the gateway")
