"""Tasks: work that goes on together in several of them, until one ends; the others then end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any


async def until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run these together, each in a task named after its function, until one of them ends. Then end the others as well.

    A task group would not end with a task that was cancelled, nor with one that has returned: the process would live on without it.
    Besides, it would leave its owner's task marked as cancelled when it fails. Before Python 3.11.3 a timeout in a task so marked ends it
    (python/cpython#102780).

    Raises:
        Exception: what the one that ended first has raised; ``RuntimeError`` if it has returned or was cancelled.
    """
    tasks = [asyncio.create_task(work, name=getattr(work, "__qualname__", None)) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await finish(tasks)
    for task in ended:
        if not task.cancelled():
            task.result()
    raise RuntimeError(f"{ended.pop().get_name()} has ended")


async def finish(tasks: Collection[asyncio.Future[None]]) -> None:
    """Cancel tasks and wait until they have ended. Their errors are ignored.

    Not with ``gather``, which loses the message of a cancellation: anyio recognises its own cancellations by that, for instance those
    of a test client.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log that it never was
