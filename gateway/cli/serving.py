"""``gateway serve``, ``demo`` and ``check``."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import click

from gateway.cli.usage import fail, settings_or_exit, warn
from gateway.errors import SettingsError
from gateway.server.descriptors import fill_standard, unbuffer_errors
from gateway.server.run import bind, serve, serve_workers
from gateway.settings import Settings, parse_settings, serving_problems, subjects
from gateway.store.checks import NO_PERSISTENCE, redis_problems


@click.command("serve")
@click.option("--host", help="Address to listen on.  [GATEWAY_HOST, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on.  [GATEWAY_PORT, 8000]")
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes.  [GATEWAY_WORKERS, 1]")
def serve_command(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the gateway.

    Needs GATEWAY_REDIS_URL and a way to check callers: GATEWAY_JWT_SECRET, GATEWAY_JWT_PUBLIC_KEY, GATEWAY_JWKS_URL or
    GATEWAY_AUTHORIZE_URL. GATEWAY_AUTH=none lets everybody do everything, on this machine only.
    """
    fill_standard()
    unbuffer_errors()
    settings = settings_or_exit(host=host, port=port, workers=workers)
    if problems := serving_problems(settings):
        fail("\n".join(problems))
    try:
        listener = bind(settings)
    except OSError as error:
        fail(f"GATEWAY_HOST, GATEWAY_PORT: cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    if settings.log_level in ("debug", "info") and settings.log_format == "text":
        with suppress(OSError):  # a log on a full disk must not prevent the start
            click.echo(f"gateway on {address(settings, listener.getsockname()[1])}", err=True)
    if settings.workers == 1:
        from gateway.app import create_app  # noqa: PLC0415 - the workers import it themselves

        app = create_app(settings)
        serve(app, settings, listener)
        if app.failed:
            sys.exit(1)  # a supervisor that starts only what has failed must start it again
    else:
        serve_workers(settings, listener)


def address(settings: Settings, port: int) -> str:
    """The URL of the gateway."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="Port to listen on; 0 for a free one.")
def demo(port: int) -> None:
    """Show a page with jobs that finish.

    Starts its own Valkey, and workers that pretend to work (Celery tasks where Celery is installed). There is no
    authentication: only this machine can reach it.
    """
    from gateway.pages.demo import run_demo  # noqa: PLC0415 - imports packages that only the demo needs

    try:
        run_demo(port)
    except (SettingsError, OSError) as error:
        fail(str(error))


@click.command()
def check() -> None:
    """Check the settings and Redis.

    Prints every problem, a line each, and exits with 1 if there is one. A Redis without an append-only file is only worth a warning.
    """
    values, problems = parse_settings(os.environ)
    settings = Settings(**values)
    problems += serving_problems(settings, wrong=subjects(problems))
    prefix_is_sure = not any("GATEWAY_PREFIX" in problem for problem in problems)  # under another one we would leave things in Redis
    if settings.redis_url is not None and prefix_is_sure:
        problems += asyncio.run(redis_problems(settings.redis_url, settings.prefix, settings.max_event_bytes))
    if NO_PERSISTENCE in problems:
        problems.remove(NO_PERSISTENCE)
        warn(NO_PERSISTENCE)
    if problems:
        fail("\n".join(problems))
    click.echo("all is well")
