"""The options that this load test adds to those of locust."""

from __future__ import annotations

from typing import Any


def add_options(parser: Any) -> None:
    """To locust's parser. A group of arguments would not show in the web UI."""
    parser.add_argument(
        "--rate", type=float, default=10.0, help="events a second that each locust process publishes on its shared channels"
    )
    parser.add_argument("--channels", type=int, default=1, help="shared channels of each locust process")
    parser.add_argument("--event-bytes", type=int, default=100, help="padding in each event")
    parser.add_argument("--job-seconds", type=float, default=5.0, help="how long a job takes, from queued to completed")
    parser.add_argument("--storm", type=float, default=0.0, help="every so many seconds all followers drop at once and come back; 0: never")
    parser.add_argument(
        "--churn", type=float, default=0.0, help="a follower leaves after so many seconds on average and comes back; 0: never"
    )
    parser.add_argument("--patience", type=float, default=10.0, help="seconds after which an event that has not come counts as lost")
    parser.add_argument("--redis-url", default="", help="publish through this Redis; without it through POST /publish")
    parser.add_argument("--token", default="", is_secret=True, help="bearer token for the gateway")
