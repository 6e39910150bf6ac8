"""Run the ``gateway`` command."""

from __future__ import annotations

import os
import subprocess
import sys

from click.testing import CliRunner, Result

from gateway.cli import main


def run(*words: str, timeout: float = 60, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``gateway`` with these arguments as a process, with only these settings (lower-case names without ``GATEWAY_``)."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "gateway", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout, check=False)


def invoke(*words: str, **settings: str) -> Result:
    """Like ``run``, but within this process, because starting a process takes longer than most commands."""
    return CliRunner().invoke(main, words, env={f"GATEWAY_{name.upper()}": value for name, value in settings.items()})
