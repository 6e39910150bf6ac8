"""Usage: what the commands share: how they fail, read the settings and check arguments."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
from redis.exceptions import RedisError

from gateway.core.event import channel_problem
from gateway.errors import GatewayError, SettingsError
from gateway.settings import Settings, read_settings
from gateway.store.checks import no_answer


def fail(message: str, code: int = 1) -> NoReturn:
    """Print each line of a message as an error, and exit."""
    for line in message.splitlines():
        click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)
    sys.exit(code)


def warn(message: str) -> None:
    """Print a warning."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {message}", err=True)


def settings_or_exit(**chosen: Any) -> Settings:
    """The settings from the environment. If some are wrong, exits with a line for each.

    Args:
        chosen: settings from the command line, which outrank the environment; ``None`` for one that was not given
    """
    try:
        return read_settings(os.environ, **chosen)
    except SettingsError as error:
        fail(str(error))


def redis_url_or_exit(settings: Settings) -> str:
    """The address of Redis. Exits if it is not set."""
    if settings.redis_url is None:
        fail("GATEWAY_REDIS_URL: not set; an address such as redis://localhost:6379 is expected")
    return settings.redis_url


def channel_argument(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Check an argument that is the name of a channel, or several names."""
    for name in (value,) if isinstance(value, str) else value:
        if (problem := channel_problem(name)) is not None:
            raise click.BadParameter(problem)
    return value


def with_redis(run: Callable[[], Any]) -> None:
    """Run a coroutine function that needs Redis. Exits with a message if Redis is away, or refuses."""
    try:
        asyncio.run(run())
    except (RedisError, OSError) as error:
        fail(no_answer(error))
    except GatewayError as error:
        fail(error.detail)
    except KeyboardInterrupt:
        sys.exit(130)
