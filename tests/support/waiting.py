"""Waiting for what another process, thread or task brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until a condition holds, and return whether it did within this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


async def until(condition: Callable[..., object], seconds: float = 30.0) -> None:
    """Wait until a condition holds, which tasks of this event loop bring about; fail if it takes longer than this."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
