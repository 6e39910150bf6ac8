"""Wait until a program that a test has started listens on its port."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

LISTEN_SECONDS = 60.0


def is_listening(port: int) -> bool:
    """Whether a port of 127.0.0.1 accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, output: Callable[[], str]) -> None:
    """Wait until a port of 127.0.0.1 accepts connections; fail with the program's output if it ends before that."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while not is_listening(port):
        assert process.poll() is None, output()
        assert time.monotonic() < deadline, f"nobody listens after {LISTEN_SECONDS:g} s:\n{output()}"
        time.sleep(0.01)


@contextlib.contextmanager
def listening(process: subprocess.Popen[bytes], port: int, output: Callable[[], str], end_seconds: float = 30) -> Iterator[None]:
    """Wait until a program listens; when the context closes, terminate it, which may take this many seconds."""
    try:
        wait_until_it_listens(process, port, output)
        yield
    finally:
        process.terminate()
        process.wait(end_seconds)


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections; it stays bound, because another program could take a free one."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
