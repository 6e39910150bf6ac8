"""Estimate how many gateway processes and Redis servers a number of users and jobs needs.

    python loadtest/scale.py --users 1000000 --jobs-per-second 2000

This only calculates, from what one connection, one event and one channel cost; ``costs.py`` measures those costs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from typing import Final

DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What each operation costs, in microseconds of CPU, and what is kept, in KiB of memory.

    Attributes:
        connection: a WebSocket handshake with a token never seen before, and its subscription; gateway
        delivery: sending an event to one of its many clients; gateway
        announcement: receiving an event from Redis, before it is sent to the first client; gateway
        idle: a connection without events, each second: heartbeats and the checks for stalled clients; gateway
        connection_kib: an idle connection with a channel of its own; gateway
        publish: recording and announcing an event; Redis
        push: sending the announcement to one gateway; Redis
        follow: subscribing a gateway to a channel, one read of the log, and unsubscribing; Redis
        job_kib: the log of one job; Redis
        channel_kib: a channel's subscription by one gateway; Redis
    """

    connection: float = 0
    delivery: float = 0
    announcement: float = 0
    idle: float = 0
    connection_kib: float = 0
    publish: float = 0
    push: float = 0
    follow: float = 0
    job_kib: float = 0
    channel_kib: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the installation has to serve.

    Attributes:
        users: connected at the same time, each following a channel of its own besides those of its jobs
        jobs_per_second: jobs that begin each second
        events_per_job: events published for each job
        followers: connections that follow each job
        session_seconds: how long a connection lasts
        keep_seconds: how long the log of a job stays in Redis after its last event
    """

    users: int
    jobs_per_second: float
    events_per_job: float = 13
    followers: float = 1
    session_seconds: float = 1_800
    keep_seconds: float = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one process may be used.

    Attributes:
        gateway_share: share of a core for one gateway process; the rest is for peaks and for reconnects after a deploy
        gateway_connections: connections of one gateway process (GATEWAY_MAX_CONNECTIONS)
        redis_share: share of the one core that Redis works on
        redis_gib: memory of one Redis, in GiB
    """

    gateway_share: float = 0.6
    gateway_connections: int = 16_000
    redis_share: float = 0.6
    redis_gib: float = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a load needs.

    Attributes:
        events_per_second: published
        gateway_cores: cores that all gateway processes use together
        gateways: gateway processes
        gateway_gib: memory of all gateway processes
        comeback_seconds: how long a gateway process is busy when all its clients reconnect at once, after a deploy
        redis_cores: cores that a single Redis would need, though it can use only one
        redis_gib: memory that a single Redis would need
        redises: Redis servers to share the load among
    """

    events_per_second: float
    gateway_cores: float
    gateways: int
    gateway_gib: float
    comeback_seconds: float
    redis_cores: float
    redis_gib: float
    redises: int


def need(load: Load, costs: Costs, limits: Limits | None = None) -> Need:
    """Calculate what a load needs."""
    limits = limits or Limits()
    events = load.jobs_per_second * load.events_per_job
    connects = load.users / load.session_seconds
    follows = connects + load.jobs_per_second * load.followers
    deliveries = events * load.followers
    gateways = by_connections = math.ceil(load.users / limits.gateway_connections) or 1
    cores = 0.0
    for _ in range(20):  # the more gateways there are, the more of them hear the same event
        heard = events * min(load.followers, gateways)
        work = deliveries * costs.delivery + heard * costs.announcement + connects * costs.connection + load.users * costs.idle
        cores = work / 1e6
        gateways = max(by_connections, math.ceil(cores / limits.gateway_share))
    heard = events * min(load.followers, gateways)
    redis_cores = (events * costs.publish + heard * costs.push + follows * costs.follow) / 1e6
    jobs_followed = load.users  # about one at a time, at most
    redis_kib = load.jobs_per_second * load.keep_seconds * costs.job_kib + (load.users + jobs_followed) * costs.channel_kib
    return Need(
        events_per_second=events,
        gateway_cores=cores,
        gateways=gateways,
        gateway_gib=load.users * costs.connection_kib / 2**20,
        comeback_seconds=load.users / gateways * costs.connection / 1e6,
        redis_cores=redis_cores,
        redis_gib=redis_kib / 2**20,
        redises=max(1, math.ceil(redis_cores / limits.redis_share), math.ceil(redis_kib / 2**20 / limits.redis_gib)),
    )


def events_of_one_redis(costs: Costs, share: float = 1.0) -> float:
    """How many events a second one Redis can record and announce to one gateway, within this share of its core."""
    return share * 1e6 / (costs.publish + costs.push)


COLUMNS: Final = (
    "users",
    "jobs/s",
    "events/s",
    "gateway cores",
    "gateway processes",
    "gateway memory",
    "all reconnected in",
    "Redis CPU",
    "Redis memory",
    "Redises",
)
HEAD: Final = f"| {' | '.join(COLUMNS)} |\n|{' ---: |' * len(COLUMNS)}"


def line(load: Load, found: Need) -> str:
    """A load and its needs as a line of a Markdown table."""
    figures = [
        f"{load.users:,}",
        f"{load.jobs_per_second:,.0f}",
        f"{found.events_per_second:,.0f}",
        f"{found.gateway_cores:.1f}",
        f"{found.gateways}",
        f"{found.gateway_gib:.1f} GiB",
        f"{found.comeback_seconds:.0f} s",
        f"{found.redis_cores * 100:.0f} % of a core",
        f"{found.redis_gib:.1f} GiB",
        f"{found.redises}",
    ]
    return f"| {' | '.join(figures)} |"


# As costs.py printed them; docs/performance.md says when and where.
MEASURED: Final = Costs(
    connection=153,
    delivery=5.1,
    announcement=33,
    idle=0.54,
    connection_kib=4.1,
    publish=14.4,
    push=0.3,
    follow=12,
    job_kib=0.53,
    channel_kib=0.24,
)


def main() -> None:
    """Print what the given load needs, or three usual ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, help="connected at once; without it, a table for 10,000 to 1,000,000")
    parser.add_argument("--jobs-per-second", type=float, help="jobs that begin each second; unless given, one for every 500 users")
    for each in fields(Load)[2:]:
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default)
    options = parser.parse_args()
    print(HEAD)
    for users in [options.users] if options.users else [10_000, 100_000, 1_000_000]:
        jobs = options.jobs_per_second if options.jobs_per_second is not None else users / 500
        rest = {each.name: getattr(options, each.name) for each in fields(Load)[2:]}
        load = Load(users=users, jobs_per_second=jobs, **rest)
        print(line(load, need(load, MEASURED)))
    print(f"\nOne Redis records and announces at most {events_of_one_redis(MEASURED):,.0f} events a second.")


if __name__ == "__main__":
    main()
