"""Descriptors: sees to the standard streams, raises the limit of open files, and reserves some for other things than clients.

When descriptors run out, libuv accepts each new connection with one that it holds in reserve, and closes it at once. But Redis and the
log may need descriptors, too. So the clients' sockets are counted, and those over a bound are refused.
"""

from __future__ import annotations

import functools
import io
import os
import resource
import sys
from contextlib import suppress
from typing import Final

RESERVE: Final = 64  # for listening sockets, Redis, the event loop, and requests to the backend
MAX_FILES: Final = 1_048_576  # in a container the limit may be a billion, which no kernel's table holds
OPEN_MAX: Final = 10_240  # that macOS allows to every process


def fill_standard() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next sockets would take these numbers, and whoever writes to a standard stream, such as a worker, would write to them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(opened, True)


def unbuffer_errors() -> None:
    """Have each line for stderr written at once, and dropped if that fails, as on a full disk.

    Python's own stderr would keep such a line, and fail with it again when a worker is started and when the process ends.
    """
    with suppress(OSError, AttributeError):  # it is no file, or closed
        straight = io.FileIO(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(straight, sys.stderr.encoding, sys.stderr.errors, write_through=True)


def raise_limit() -> int:
    """Raise this process's limit of open files as far as it is allowed to; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft if soft != resource.RLIM_INFINITY else MAX_FILES
    for wanted in (most, min(most, OPEN_MAX)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        except (OSError, ValueError):  # macOS has a lower limit than it tells
            continue
        return max(soft, wanted)
    return soft


@functools.cache
def max_sockets() -> int:
    """How many sockets of clients this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_FILES if soft == resource.RLIM_INFINITY else max(soft - RESERVE, soft // 2)
