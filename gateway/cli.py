"""The command line."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
from redis.exceptions import RedisError

from gateway.core.event import TEXT, Malformed, channel_problem, read_published, show
from gateway.core.grant import MAX_TEXT, Patterns, is_name
from gateway.core.subscription import Subscription
from gateway.errors import BadRequest, GatewayError, SettingsError
from gateway.feed import Feed
from gateway.server.checks import redis_problems
from gateway.server.run import bind, serve, serve_workers
from gateway.settings import Settings, read_settings, serving_problems
from gateway.store.connect import redis_client
from gateway.store.log import Log, Publication
from gateway.transports.request import parse_since

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong, a line each, and exit."""
    for line in message.splitlines():
        click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)
    sys.exit(code)


def settings_or_exit(**chosen: Any) -> Settings:
    """The settings; exits with a line for each that is wrong."""
    try:
        return read_settings(os.environ, **chosen)
    except SettingsError as error:
        fail(str(error))


def redis_url_or_exit(settings: Settings) -> str:
    """The address of Redis; exits if none is set."""
    if settings.redis_url is None:
        fail("GATEWAY_REDIS_URL: not set; an address such as redis://localhost:6379 is expected")
    return settings.redis_url


def channel_argument(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """A channel's name, or several."""
    for name in (value,) if isinstance(value, str) else value:
        if (problem := channel_problem(name)) is not None:
            raise click.BadParameter(problem)
    return value


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="notify-gateway", prog_name="gateway")
def main() -> None:
    """Tell the browser that the job is done.

    Backend workers publish events through Redis; the gateway pushes them to the browsers that follow, over WebSocket, SSE or
    long polling. Settings are environment variables, GATEWAY_*; `gateway check` says what is wrong with them.
    """


@main.command("serve")
@click.option("--host", help="Address to listen on.  [GATEWAY_HOST, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on.  [GATEWAY_PORT, 8000]")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes.  [GATEWAY_WORKERS, 1]")
def serve_command(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the gateway.

    Needs GATEWAY_REDIS_URL, and a key for tokens (GATEWAY_JWT_SECRET, GATEWAY_JWT_PUBLIC_KEY or GATEWAY_JWKS_URL), or
    GATEWAY_AUTHORIZE_URL, or GATEWAY_AUTH=none.
    """
    settings = settings_or_exit(host=host, port=port, workers=workers)
    if problems := serving_problems(settings):
        fail("\n".join(problems))
    try:
        listener = bind(settings)
    except OSError as error:
        fail(f"GATEWAY_HOST, GATEWAY_PORT: cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    if settings.log_level in ("debug", "info") and settings.log_format == "text":
        click.echo(f"gateway on {address(settings, listener.getsockname()[1])}", err=True)
    if settings.workers == 1:
        from gateway.app import create_app  # noqa: PLC0415 - the workers import it themselves

        serve(create_app(settings), settings, listener)
    else:
        chosen = {"HOST": settings.host, "PORT": str(settings.port), "WORKERS": str(settings.workers)}
        serve_workers(settings, listener, {f"GATEWAY_{name}": value for name, value in chosen.items()})


def address(settings: Settings, port: int) -> str:
    """Where a browser finds the gateway."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


@main.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="Port to listen on; 0 for a free one.")
def demo(port: int) -> None:
    """Show jobs that finish: a page, a private Valkey, and workers that pretend to work.

    Where Celery is installed the jobs are Celery's. No authentication, on this machine only.
    """
    from gateway.pages.demo import run_demo  # noqa: PLC0415 - needs what only the demo needs

    try:
        run_demo(port)
    except (SettingsError, OSError) as error:
        fail(str(error))


@main.command()
@click.argument("channel", callback=channel_argument)
@click.argument("json")
@click.option("--key", help="Idempotency key: published once in 24 h.")
@click.option("--keep", type=click.IntRange(1, 10_000), help="Events to keep in the channel's log.  [100]")
@click.option("--ttl", type=click.IntRange(1, 30 * 86_400), help="Seconds to keep the log.  [86400]")
@click.option("--collapse", metavar="LABEL", help="Take the place of the newest event if it has the same label.")
@click.option("--live", is_flag=True, help="Do not record it: it reaches who is connected now.")
def publish(channel: str, json: str, live: bool, **options: Any) -> None:
    """Publish an event and print its id.

    JSON is an event, {"type":"completed","data":{},"final":true}, or any other JSON value, which becomes the data of a message.
    """
    settings = settings_or_exit()
    url = redis_url_or_exit(settings)
    data = os.fsencode(json)
    try:
        read_published(data, settings.max_event_bytes)
    except Malformed as error:
        raise click.BadParameter(str(error), param_hint="JSON") from None

    async def run() -> None:
        client = redis_client(url)
        log = Log(client, settings.prefix, settings.max_event_bytes)
        try:
            if live:
                await log.announce(channel, data)
                return
            await log.open()
            result = (await log.append([Publication(channel, data, **options)]))[0]
            if isinstance(result, GatewayError):
                raise result
            click.echo(result)
        finally:
            await client.aclose()

    _with_redis(run)


@main.command()
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True, callback=channel_argument)
@click.option("--since", default="last", show_default=True, help="last, now, 0 (all that is kept) or an event's id.")
@click.option("--until-final", is_flag=True, help="Stop when all the channels are over.")
def watch(channels: tuple[str, ...], since: str, until_final: bool) -> None:
    """Print the events of channels as they come, a JSON object a line; notices go to stderr."""
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
            write=_print,
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
        finally:
            await client.aclose()

    _with_redis(run)


def _print(line: bytes) -> None:
    click.echo(line, err=line.startswith(b'{"op":'))


def _with_redis(run: Callable[[], Any]) -> None:
    try:
        asyncio.run(run())
    except (RedisError, OSError) as error:
        fail(f"GATEWAY_REDIS_URL: Redis does not answer: {error}")
    except GatewayError as error:
        fail(error.detail)
    except KeyboardInterrupt:
        sys.exit(130)


@main.group()
def tap() -> None:
    """Publish what happens in a queue that knows nothing of the gateway."""


def template_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A channel's name with ``{id}`` and perhaps ``{queue}``."""
    try:
        problem = channel_problem(value.format(id="1", queue="a"))
    except (LookupError, ValueError, AttributeError):
        problem = "only {id} and {queue} stand for something"
    if problem is None and "{id}" not in value:
        problem = "{id} is missing: each job has a channel of its own"
    if problem is not None:
        raise click.BadParameter(problem)
    return value


@tap.command()
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@click.option("--channel", default="jobs:{id}", show_default=True, callback=template_argument, help="{id} of the job, {queue} by name.")
@click.option("--source", metavar="URL", help="BullMQ's Redis.  [GATEWAY_REDIS_URL]")
@click.option("--bull", metavar="PREFIX", default="bull", show_default=True, help="BullMQ's prefix.")
@click.option("--since", type=click.Choice(["now", "0"]), default="now", show_default=True, help="Where the very first run begins.")
@click.option("--results", is_flag=True, help="Tell what jobs return.")
@click.option("--messages", is_flag=True, help="Tell the texts of errors.")
def bullmq(queues: tuple[str, ...], channel: str, source: str | None, bull: str, since: str, results: bool, messages: bool) -> None:
    """Publish what happens to the jobs of BullMQ queues, until a signal.

    It goes on where it, or another one, has stopped. Several may run: one of them reads, the others wait.
    """
    from gateway.tap import Tap, Words, run_taps  # noqa: PLC0415 - only this command needs it

    settings = settings_or_exit()
    url = redis_url_or_exit(settings)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(message)s")

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        client, bulls = redis_client(url), redis_client(source or url, connections=2 * len(queues))
        words = Words(channel=channel, results=results, messages=messages)
        log = Log(client, settings.prefix, settings.max_event_bytes)
        try:
            await log.open()
            await run_taps(Tap(queue, bulls, client, log, prefix=settings.prefix, bull=bull, words=words, since=since) for queue in queues)
        finally:
            await bulls.aclose()
            await client.aclose()

    try:
        _with_redis(run)
    except ValueError as error:
        fail(f"--source: {error}")


def pattern_argument(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Channels, each exact or ending in ``*``."""
    try:
        Patterns.read(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


def subject_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Whom a token speaks for."""
    if not is_name(value):
        raise click.BadParameter(f"a printable text of 1 to {MAX_TEXT} characters is expected")
    return value


@main.command()
@click.option("--sub", required=True, callback=subject_argument, help="Whom it speaks for.")
@click.option("--subscribe", multiple=True, callback=pattern_argument, help="A channel to follow, or 'jobs:*'.  [user:SUB and user:SUB:*]")
@click.option("--publish", multiple=True, callback=pattern_argument, help="A channel to publish on over HTTP, or 'jobs:*'.  [none]")
@click.option("--admin", is_flag=True, help="May revoke tokens and read the metrics.")
@click.option("--ttl", type=click.FloatRange(0, min_open=True), default=900, show_default=True, help="Seconds until it expires.")
def token(sub: str, subscribe: tuple[str, ...], publish: tuple[str, ...], admin: bool, ttl: float) -> None:
    """Print a token.

    Made with GATEWAY_JWT_SECRET, and with GATEWAY_JWT_AUDIENCE and GATEWAY_JWT_ISSUER if they are set. --subscribe and
    --publish may be given several times.
    """
    import jwt  # noqa: PLC0415 - costs time, and only this command needs it

    settings = settings_or_exit()
    if settings.jwt_secret is None:
        fail("GATEWAY_JWT_SECRET: not set; it is what tokens are made with (with a public key, whoever has its private key makes them)")
    now = round(time.time(), 3)
    claims: dict[str, Any] = {"sub": sub, "iat": now, "exp": now + ttl}
    optional = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer, "subscribe": list(subscribe), "publish": list(publish)}
    claims |= {name: value for name, value in optional.items() if value}
    if admin:
        claims["admin"] = True
    click.echo(jwt.encode(claims, settings.jwt_secret, algorithm="HS256"))


def address_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Where browsers find a gateway."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{show(value)}: http:// or https://, a host and perhaps a path are expected")
    return value


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command()
@click.argument("url", callback=address_argument)
@click.option("--token", help="A token that may follow and publish on the channel; - reads it from stdin.")
@click.option("--channel", callback=channel_argument, default="doctor", show_default=True, help="To follow and to publish on.")
@click.option("--patience", type=click.FloatRange(1, 3600), default=30, show_default=True, help="Seconds to watch a quiet stream.")
@click.option("--log", "logs", multiple=True, type=_FILE, help="A proxy's log, to look for tokens in.")
def doctor(url: str, token: str | None, channel: str, patience: float, logs: tuple[Path, ...]) -> None:
    """Examine a deployment through all its proxies.

    URL is where browsers find the gateway, such as https://example.com/notify. Says what is wrong and which line to change in
    nginx, Caddy, Traefik or ALB; exits with 1 if something is. Publishes three events on the channel, which stay for a minute.
    """
    from gateway.doctor.examination import examine  # noqa: PLC0415 - needs what only the doctor needs
    from gateway.doctor.report import describe, summary  # noqa: PLC0415

    if token == "-":  # noqa: S105 - what stands for it
        token = sys.stdin.readline().strip()

    async def run() -> int:
        wrong = 0
        async for finding in examine(url, token=token, channel=channel, patience=patience, logs=logs):
            click.echo(describe(finding))
            wrong += finding.kind == "wrong"
        return wrong

    try:
        wrong = asyncio.run(run())
    except KeyboardInterrupt:
        sys.exit(130)
    click.echo(summary(wrong))
    sys.exit(1 if wrong else 0)


@main.command()
def check() -> None:
    """Check the settings and Redis.

    Prints every problem, a line each, and exits with 1 if there is one.
    """
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        fail(str(error))
    problems = serving_problems(settings)
    if settings.redis_url is not None:
        problems += asyncio.run(redis_problems(settings.redis_url, settings.prefix, settings.max_event_bytes))
    if problems:
        fail("\n".join(problems))
    click.echo("all is well")
