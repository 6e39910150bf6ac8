"""The command line."""

from __future__ import annotations

import os

import click

from gateway.cli.events import publish, watch
from gateway.cli.examining import doctor
from gateway.cli.queues import tap
from gateway.cli.serving import check, demo, serve_command
from gateway.cli.tokens import token


class InOrder(click.Group):
    """Lists its commands in the order in which a newcomer meets them."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=InOrder, context_settings=CONTEXT)
@click.version_option(package_name="notify-gateway", prog_name="gateway")
@click.pass_context
def main(context: click.Context) -> None:
    """Tell the browser that the job is done.

    Background workers publish events through Redis; the gateway pushes them to browsers over WebSocket, SSE or long polling.

    To see it work: `gateway demo`. To run it: set GATEWAY_REDIS_URL and GATEWAY_JWT_SECRET, then `gateway check` and
    `gateway serve`. All settings are environment variables.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":  # https://no-color.org; a terminal that knows no colours
        context.color = False


for command in (demo, check, serve_command, publish, watch, token, doctor, tap):
    main.add_command(command)
