"""``gateway tap``."""

from __future__ import annotations

import asyncio
import logging.config
import signal
from functools import partial

import click

from gateway.cli.usage import redis_url_or_exit, settings_or_exit, with_redis
from gateway.core.event import channel_problem
from gateway.server.logs import log_config
from gateway.settings import REDIS_URL_RULE, parse_redis_url
from gateway.store.client import redis_client
from gateway.store.log import Log


@click.group()
def tap() -> None:
    """Publish what happens in a job queue.

    Neither the queue nor its workers need any change.
    """


def template_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Check an argument that is the name of a channel with ``{id}`` and perhaps ``{queue}`` in it."""
    try:
        problem = channel_problem(value.format(id="1", queue="a"))
    except (LookupError, ValueError, AttributeError):
        problem = "only {id} and {queue} stand for something"
    if problem is None and "{id}" not in value:
        problem = "{id} is missing: each job has a channel of its own"
    if problem is not None:
        raise click.BadParameter(problem)
    return value


def redis_argument(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Check an argument that is the address of a Redis. It is not shown, because there may be a password in it."""
    try:
        return None if value is None else parse_redis_url(value)
    except ValueError as error:
        reason = f" ({error})" if error.args else ""
        raise click.BadParameter(f"{REDIS_URL_RULE} is expected{reason}") from None


@tap.command()
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@click.option(
    "--channel", default="jobs:{id}", show_default=True, callback=template_argument, help="A job's channel: {id}, perhaps {queue}."
)
@click.option(
    "--source",
    metavar="URL",
    envvar="BULLMQ_REDIS_URL",
    show_envvar=True,
    callback=redis_argument,
    help="BullMQ's Redis, if it is not the gateway's.",
)
@click.option("--bull", metavar="PREFIX", default="bull", show_default=True, help="Prefix of BullMQ's keys.")
@click.option("--since", type=click.Choice(["now", "0"]), default="now", show_default=True, help="Where the first run begins.")
@click.option("--results", is_flag=True, help="Include what jobs return.")
@click.option("--messages", is_flag=True, help="Include the texts of errors.")
def bullmq(queues: tuple[str, ...], channel: str, source: str | None, bull: str, since: str, results: bool, messages: bool) -> None:
    """Publish what happens to BullMQ jobs.

    Runs until it is stopped, and when started again goes on from there. Several may run for the same queue: one reads, and
    another takes over if it stops.
    """
    from gateway.tap.tap import Tap, run_taps  # noqa: PLC0415 - only this command needs it

    settings = settings_or_exit()
    url = redis_url_or_exit(settings)
    logging.config.dictConfig(log_config(settings.log_level, settings.log_format))

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        client, bulls = redis_client(url), redis_client(source or url, connections=2 * len(queues))
        log = Log(client, settings.prefix, settings.max_event_bytes)
        try:
            await log.open()
            tap_of = partial(Tap, prefix=settings.prefix, bull=bull, channel=channel, results=results, messages=messages, since=since)
            await run_taps(tap_of(queue, bulls, client, log) for queue in queues)
        finally:
            await bulls.aclose()
            await client.aclose()

    with_redis(run)
