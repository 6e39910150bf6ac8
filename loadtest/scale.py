"""Scale: what given users and jobs need in gateways and Redises, from what one connection, event and channel cost.

    python loadtest/scale.py --users 1000000 --jobs-per-second 2000

It is arithmetic, no measurement: ``costs.py`` measures what it counts with.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from typing import Final

DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the parts cost: microseconds of CPU, KiB of memory.

    Attributes:
        connection: a WebSocket handshake with a token never seen, and its subscription
        delivery: one event for one client, when many get it
        announcement: one event heard by one gateway, before the first client gets it
        idle: a connection that gets no event, for each second: its share of heartbeats and of the watch over all
        connection_kib: an idle connection with a channel of its own
        publish: one event, recorded and announced, in Redis
        push: the announcement's way from Redis to one gateway
        follow: Redis's part in a gateway following a channel and leaving it, one read of the log included
        job_kib: the log of one job in Redis
        channel_kib: a channel that is followed, in Redis, for each gateway
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
    """What there is to do.

    Attributes:
        users: connected at once, each following a channel of its own besides those of its jobs
        jobs_per_second: that begin
        events_per_job: published for each
        followers: connections that follow one job
        session_seconds: that a connection lasts
        keep_seconds: that the log of a job stays in Redis after its last event
    """

    users: int
    jobs_per_second: float
    events_per_job: float = 13
    followers: float = 1
    session_seconds: float = 1_800
    keep_seconds: float = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How full things may be: shares of one core, connections, GiB.

    Attributes:
        gateway_share: of a core that one gateway process may use; the rest is for peaks and for coming back after a deploy
        gateway_connections: of one process, GATEWAY_MAX_CONNECTIONS
        redis_share: of the one core that Redis works on
        redis_gib: of one Redis
    """

    gateway_share: float = 0.6
    gateway_connections: int = 16_000
    redis_share: float = 0.6
    redis_gib: float = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What it takes.

    Attributes:
        events_per_second: published
        gateway_cores: of CPU that the gateways use in all
        gateways: processes
        gateway_gib: memory of all
        comeback_seconds: that a gateway process works to take in its clients when all come at once, after a deploy
        redis_cores: that one Redis would need; it has one
        redis_gib: that one Redis would need
        redises: that the load has to be shared among
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
    """What a load takes."""
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
    """How many recorded events a second one Redis takes, each announced to one gateway."""
    return share * 1e6 / (costs.publish + costs.push)


COLUMNS: Final = (
    "users",
    "jobs/s",
    "events/s",
    "gateway cores",
    "gateway processes",
    "gateway memory",
    "all back in",
    "Redis CPU",
    "Redis memory",
    "Redises",
)
HEAD: Final = f"| {' | '.join(COLUMNS)} |\n|{' ---: |' * len(COLUMNS)}"


def line(load: Load, found: Need) -> str:
    """A line of a table in Markdown."""
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
    """Print the need of the load that is given, or of the usual ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, help="connected at once; without it, a table for 10,000 to 1,000,000")
    parser.add_argument("--jobs-per-second", type=float, help="that begin; one for 500 users unless given")
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
