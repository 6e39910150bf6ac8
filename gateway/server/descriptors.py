"""Descriptors: raises the limit of open files, and reserves some of them for other things than clients.

When descriptors run out, libuv accepts each new connection with one that it holds in reserve, and closes it at once. But Redis and the
log may need descriptors, too. So the clients' sockets are counted, and those over a bound are refused.
"""

from __future__ import annotations

import functools
import resource
from typing import Final

RESERVE: Final = 64  # for listening sockets, Redis, the event loop, and requests to the backend
MAX_FILES: Final = 1_048_576  # in a container the limit may be a billion, which no kernel's table holds
OPEN_MAX: Final = 10_240  # that macOS allows to every process


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
