"""The command line."""

from __future__ import annotations

import click

from gateway.cli.events import publish, watch
from gateway.cli.examining import doctor
from gateway.cli.queues import tap
from gateway.cli.serving import check, demo, serve_command
from gateway.cli.tokens import token

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="notify-gateway", prog_name="gateway")
def main() -> None:
    """Tell the browser that the job is done.

    Backend workers publish events through Redis; the gateway pushes them to the browsers that follow, over WebSocket, SSE or
    long polling. Settings are environment variables, GATEWAY_*; `gateway check` says what is wrong with them.
    """


for command in (serve_command, demo, publish, watch, tap, token, doctor, check):
    main.add_command(command)
