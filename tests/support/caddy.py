"""A real Caddy in front of gateways."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import need
from tests.support.listening import listening

CADDY = shutil.which("caddy")
OPTIONS = "{\n\tadmin off\n\tauto_https off\n\tgrace_period 1s\n}\n"


def check(file: Path) -> subprocess.CompletedProcess[str]:
    """Run ``caddy validate`` on a configuration."""
    need(CADDY, "caddy: apt-get install caddy")
    environ = os.environ | {"XDG_DATA_HOME": str(file.parent), "XDG_CONFIG_HOME": str(file.parent)}
    command = [str(CADDY), "validate", "--config", str(file), "--adapter", "caddyfile"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def running_caddy(folder: Path, sites: str, port: int) -> Iterator[None]:
    """Run Caddy while the context is open.

    Args:
        folder: for its files; ``log`` is its log, with the requests
        sites: the configuration of its sites, without the global options
        port: one of the ports that it listens on, to know when it has started
    """
    file = folder / "Caddyfile"
    file.write_text(OPTIONS + sites)
    checked = check(file)
    assert checked.returncode == 0, checked.stderr
    environ = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(CADDY), "run", "--config", str(file), "--adapter", "caddyfile"], env=environ, stdout=log, stderr=log
        )
    with listening(process, port, (folder / "log").read_text):
        yield
