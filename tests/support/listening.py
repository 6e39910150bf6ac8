"""Programs that a test starts, up to the moment when they listen."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

LISTEN_SECONDS = 20.0


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, told: Callable[[], str]) -> None:
    """Wait until somebody takes connections at this port of 127.0.0.1; ``told`` says why if the program ends instead."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, told()
        assert time.monotonic() < deadline, f"nobody listens after {LISTEN_SECONDS:g} s:\n{told()}"
        time.sleep(0.01)


@contextlib.contextmanager
def listening(process: subprocess.Popen[bytes], port: int, told: Callable[[], str], end_seconds: float = 10) -> Iterator[None]:
    """Let a program run until left, from the moment when it listens; it must end within so many seconds."""
    try:
        wait_until_it_listens(process, port, told)
        yield
    finally:
        process.terminate()
        process.wait(end_seconds)


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens, nor will until left: a free one may be somebody's in the next moment."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
