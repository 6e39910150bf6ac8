"""The options that this load test adds to those of locust."""

from __future__ import annotations

from typing import Any


def add_options(parser: Any) -> None:
    """To locust's parser. Each also shows in the web UI, except the token."""
    group = parser.add_argument_group("Notify Gateway")
    group.add_argument("--rate", type=float, default=10.0, help="events a second that each locust process publishes on its shared channels")
    group.add_argument("--channels", type=int, default=1, help="shared channels of each locust process")
    group.add_argument("--event-bytes", type=int, default=100, help="padding in each event")
    group.add_argument("--job-seconds", type=float, default=5.0, help="how long a job takes, from queued to completed")
    group.add_argument("--storm", type=float, default=0.0, help="every so many seconds all followers drop at once and come back; 0: never")
    group.add_argument(
        "--churn", type=float, default=0.0, help="a follower leaves after so many seconds on average and comes back; 0: never"
    )
    group.add_argument("--patience", type=float, default=10.0, help="seconds after which an event that has not come counts as lost")
    group.add_argument("--redis-url", default="", help="publish through this Redis; without it through POST /publish")
    parser.add_argument("--token", default="", is_secret=True, help="bearer token for the gateway")
