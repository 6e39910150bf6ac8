"""``gateway publish`` and ``gateway watch``."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from functools import partial
from typing import Any, Final

import click
import msgspec

from gateway.cli.usage import channel_argument, redis_url_or_exit, settings_or_exit, with_redis
from gateway.core.event import Malformed, Published, parse_published
from gateway.core.subscription import Subscription
from gateway.core.wire import TEXT
from gateway.errors import BadRequest, GatewayError
from gateway.feed import Feed
from gateway.store.client import redis_client
from gateway.store.log import Log, Publication
from gateway.transports.request import parse_since

_CONTROL: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]")  # the control characters that JSON allows in a string: DEL, and C1 in UTF-8
NO_EVENT: Final = (
    'all of it becomes the data of an event of type "message": an event has a text "type" and at most "data" and "final" beside it'
)


@click.command()
@click.argument("channel", callback=channel_argument)
@click.argument("json")
@click.option("--key", help="Idempotency key: with the same key it is published once in 24 h.")
@click.option("--keep", type=click.IntRange(1, 10_000), help="Events to keep in the channel's log.  [100]")
@click.option("--ttl", type=click.IntRange(1, 30 * 86_400), help="Seconds to keep the log after this event.  [86400]")
@click.option("--collapse", metavar="LABEL", help="Replace the newest event if it has the same label.")
@click.option("--live", is_flag=True, help="Do not record it: only those connected now get it.")
def publish(channel: str, json: str, live: bool, **options: Any) -> None:
    """Publish an event and print its id.

    JSON is an event such as {"type":"completed","data":{},"final":true}; any other JSON value becomes the data of an event of
    type "message".
    """
    settings = settings_or_exit()
    url = redis_url_or_exit(settings)
    if live and any(value is not None for value in options.values()):
        raise click.UsageError("--live records nothing; --key, --keep, --ttl and --collapse are for an event that is recorded")
    data = os.fsencode(json)
    try:
        published = parse_published(data, settings.max_event_bytes)
    except Malformed as error:
        hint = "" if '"' in json else "; in a shell, put it into single quotes, a text as '\"text\"'"
        raise click.BadParameter(f"{error}{hint}", param_hint="JSON") from None
    if _was_to_be_an_event(data, published):
        click.echo(f"{click.style('note:', fg='yellow', bold=True)} {NO_EVENT}", err=True)

    async def run() -> None:
        client = redis_client(url)
        log = Log(client, settings.prefix, settings.max_event_bytes)
        try:
            if not live:
                await log.open()
            [result] = await log.append([Publication(channel, data, **options, live=live)])
            if isinstance(result, GatewayError):
                raise result
            if result is not None:
                click.echo(result)
        finally:
            await client.aclose()

    with_redis(run)


def _was_to_be_an_event(json: bytes, published: Published) -> bool:
    """Whether an object with fields of an event is published as mere data, because of a field that events do not have."""
    value = msgspec.json.decode(json)
    return isinstance(value, dict) and not value.keys().isdisjoint({"type", "final"}) and msgspec.json.decode(published.data) == value


@click.command()
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True, callback=channel_argument)
@click.option("--since", default="last", show_default=True, help="last, the newest event; now, only new ones; 0, all that is kept; an id.")
@click.option("--until-final", is_flag=True, help="Stop after the final event of every channel.")
def watch(channels: tuple[str, ...], since: str, until_final: bool) -> None:
    """Print the events of channels as they come.

    One JSON object per line on stdout; notices, such as gaps, go to stderr. Reads Redis directly and needs no token.
    """
    settings = settings_or_exit()
    url = redis_url_or_exit(settings)
    try:
        begin = parse_since(since)
    except BadRequest as error:
        raise click.BadParameter(error.detail, param_hint="--since") from None

    async def run() -> None:
        client = redis_client(url)
        feed = Feed(client, settings.prefix, settings.max_event_bytes)
        over = asyncio.Event()
        subscription = Subscription(
            wire=TEXT,
            write=partial(_print, over),
            on_behind=feed.catch_up,
            on_done=over.set,
            on_failed=over.set,
            until_final=until_final,
        )
        try:
            await client.ping()
            running = asyncio.ensure_future(feed.run())
            await asyncio.sleep(0)
            feed.follow(subscription, dict.fromkeys(channels, begin))
            await asyncio.wait([running, asyncio.ensure_future(over.wait())], return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.result()  # raises what the feed has died of
        finally:
            await client.aclose()

    with_redis(run)


def one_line(json: bytes) -> bytes:
    """The same JSON on one line, with nothing in it that a terminal takes for a command.

    A publisher's line break between two tokens could make a part of its data look like an event of its own.
    """
    line = json.replace(b"\r", b" ").replace(b"\n", b" ")
    return _CONTROL.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)


def _print(over: asyncio.Event, json: bytes) -> None:
    try:
        click.echo(one_line(json), err=json.startswith(b'{"op":'))
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        over.set()
