"""A Redis or Valkey of its own for the scripts beside this one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager


def any_server() -> str:
    """The program, where none is named."""
    return shutil.which("redis-server") or shutil.which("valkey-server") or "valkey-server"


@contextmanager
def running(program: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process, empty and without persistence, until left."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([program, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            yield process
        finally:
            process.terminate()
            process.wait()
