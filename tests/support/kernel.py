"""What this machine's kernel tells of its connections. gVisor's, in whose sandbox some clouds run containers, tells less than Linux."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios

import pytest


def _tells_what_waits() -> bool:
    if sys.platform != "linux":
        return False
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        try:
            fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytearray(4))
        except OSError:
            return False
    return True


IS_LINUX = _tells_what_waits()
"""Whether this is Linux itself, whose figures of a process's memory are exact, too."""

needs_linux_tcp = pytest.mark.skipif(
    not IS_LINUX, reason="needs Linux's own TCP: SIOCOUTQ, tcpi_bytes_acked, TCP_NOTSENT_LOWAT (macOS and gVisor have others)"
)
