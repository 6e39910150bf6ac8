"""How busy this machine is, for tests of how long something takes."""

from __future__ import annotations

import time

CPU_SECONDS = 0.02


def slowness() -> float:
    """How many times longer things take now than on a quiet machine: what a loop takes by the clock for each second of CPU that it gets."""
    began, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < CPU_SECONDS:
        pass
    return max(1.0, (time.perf_counter() - began) / CPU_SECONDS)
