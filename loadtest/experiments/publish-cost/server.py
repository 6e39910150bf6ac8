"""Run a Redis or Valkey for the other scripts of this folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager


def any_server() -> str:
    """The program to use if none is named."""
    return shutil.which("redis-server") or shutil.which("valkey-server") or "valkey-server"


@contextmanager
def running(program: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server without data and persistence while the context is open."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([program, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            yield process
        finally:
            process.terminate()
            process.wait()
