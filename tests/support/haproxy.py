"""A real HAProxy in front of gateways."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import need
from tests.support.listening import listening

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running_haproxy(folder: Path, config: str, port: int) -> Iterator[None]:
    """Run HAProxy while the context is open.

    Args:
        folder: for its files; ``log`` is its log, with the requests
        config: its whole configuration
        port: one of the ports that it listens on, to know when it has started
    """
    need(HAPROXY, "haproxy: apt-get install haproxy")
    file = folder / "haproxy.cfg"
    file.write_text(config)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([str(HAPROXY), "-db", "-f", str(file)], stdout=log, stderr=log)
    with listening(process, port, (folder / "log").read_text):
        yield
