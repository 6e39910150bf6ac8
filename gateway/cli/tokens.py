"""``gateway token``."""

from __future__ import annotations

import time
from typing import Any

import click

from gateway.cli.usage import fail, settings_or_exit
from gateway.core.claims import MAX_TEXT, MAX_TIME, is_name
from gateway.core.grant import Patterns


def pattern_argument(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Check an argument that is a list of channels, each exact or ending in ``*``."""
    try:
        Patterns.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


def subject_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Check an argument that is the subject of a token."""
    if not is_name(value):
        raise click.BadParameter(f"a printable text of 1 to {MAX_TEXT} characters is expected")
    return value


def ttl_argument(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Check an argument that is a number of seconds until a token expires."""
    if not time.time() + value <= MAX_TIME:  # so that NaN is refused as well, which click lets through
        raise click.BadParameter(f"{value:g}: it has to expire before the year 10000")
    return value


_SECONDS = click.FloatRange(0, min_open=True)


@click.command()
@click.option("--sub", required=True, callback=subject_argument, help="The user it stands for.")
@click.option("--subscribe", multiple=True, callback=pattern_argument, help="A channel to follow, or 'jobs:*'.  [user:SUB and user:SUB:*]")
@click.option("--publish", multiple=True, callback=pattern_argument, help="A channel to publish on over HTTP, or 'jobs:*'.  [none]")
@click.option("--admin", is_flag=True, help="It may revoke tokens and read the metrics.")
@click.option("--ttl", type=_SECONDS, callback=ttl_argument, default=900, show_default=True, help="Seconds until it expires.")
def token(sub: str, subscribe: tuple[str, ...], publish: tuple[str, ...], admin: bool, ttl: float) -> None:
    """Print a token.

    Signed with GATEWAY_JWT_SECRET; GATEWAY_JWT_AUDIENCE and GATEWAY_JWT_ISSUER go into it if they are set. --subscribe and
    --publish may be repeated.
    """
    import jwt  # noqa: PLC0415 - costs time, and only this command needs it

    settings = settings_or_exit()
    if settings.jwt_secret is None:
        fail("GATEWAY_JWT_SECRET: not set; it signs the tokens (with a public key, whoever holds the private key makes them)")
    now = round(time.time(), 3)
    claims: dict[str, Any] = {"sub": sub, "iat": now, "exp": now + ttl}
    optional = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer, "subscribe": list(subscribe), "publish": list(publish)}
    claims |= {name: value for name, value in optional.items() if value}
    if admin:
        claims["admin"] = True
    click.echo(jwt.encode(claims, settings.jwt_secret, algorithm="HS256"))
