"""Descriptors: as many open files as the system allows, and a few kept back.

When they run out libuv closes each new connection at once, by a descriptor it holds in reserve, and goes on; but Redis and the
log may need one too. So the sockets of clients are counted, and those over the bound are refused.
"""

from __future__ import annotations

import functools
import resource
from typing import Final

RESERVE: Final = 64  # listeners, Redis, the event loop, an authorisation call
MAX_FILES: Final = 1_048_576  # a container may say a thousand million, which no kernel table holds
OPEN_MAX: Final = 10_240  # that macOS lets each process have (OPEN_MAX)


def raise_limit() -> int:
    """Raise this process's limit as far as it may; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft if soft != resource.RLIM_INFINITY else MAX_FILES
    for wanted in (most, min(most, OPEN_MAX)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        except (OSError, ValueError):  # macOS has a lower bound of its own, and does not tell it
            continue
        return max(soft, wanted)
    return soft


@functools.cache
def max_sockets() -> int:
    """How many clients' sockets this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_FILES if soft == resource.RLIM_INFINITY else max(soft - RESERVE, soft // 2)
