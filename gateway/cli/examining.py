"""``gateway doctor``."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from gateway.cli.usage import channel_argument
from gateway.core.event import show


def address_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Check an argument that is the address at which browsers find a gateway."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{show(value)}: http:// or https://, a host and perhaps a path are expected")
    return parts.geturl()  # with the scheme in small letters


def token_argument(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Read a token from stdin if the argument is ``-``, and check that a header can hold it. It is not shown."""
    token = sys.stdin.readline().strip() if value == "-" else value
    if token is not None and not re.fullmatch("[!-~]+", token):
        what = "has other characters than a token may have" if token else "is empty: the command that makes it may have failed"
        raise click.BadParameter(f"it {what}")
    return token


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("url", callback=address_argument)
@click.option("--token", callback=token_argument, help="Token that may follow and publish on the channel; - reads it from stdin.")
@click.option("--channel", callback=channel_argument, default="doctor", show_default=True, help="Channel to follow and to publish on.")
@click.option("--patience", type=click.FloatRange(1, 3600), default=30, show_default=True, help="Seconds to watch an idle stream.")
@click.option("--log", "logs", multiple=True, type=_FILE, help="A proxy's log, to search for tokens. May be repeated.")
def doctor(url: str, token: str | None, channel: str, patience: float, logs: tuple[Path, ...]) -> None:
    """Examine a deployment through all its proxies.

    URL is where browsers find the gateway, such as https://example.com/notify. Says what is wrong and which line to change in
    nginx, Caddy, HAProxy, Apache, Traefik or ALB, and exits with 1 if anything is. Publishes three events on the channel, kept for a
    minute.
    """
    from gateway.doctor.examination import examine  # noqa: PLC0415 - imports packages that only this command needs
    from gateway.doctor.report import describe, summary  # noqa: PLC0415

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
