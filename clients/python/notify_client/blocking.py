"""watch: subscribe, for scripts that do not use asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Unpack

from notify_client.event import Event
from notify_client.subscription import Channels, Options, Subscription


def watch(url: str, channels: Channels, **options: Unpack[Options]) -> Iterator[Event]:
    """As ``subscribe``, but for an ordinary ``for`` loop.

        for event in watch("http://localhost:8000", ["jobs:42"], until_final=True):
            print(event.type, event.data)

    The connection is kept in a separate thread, so that it stays alive while the body of the loop works, and is closed when the loop is
    left. ``token`` and ``on_gap`` are not called in the caller's thread.

    Arguments and errors are those of ``subscribe``.
    """
    return _events(Subscription(url, channels, **options))


def _events(subscription: Subscription) -> Iterator[Event]:
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        left = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), left))
        async with subscription:
            await left.wait()

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(live())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)  # there is no event loop, for instance because the process has too many open files

    thread = threading.Thread(target=run, name="notify-watch", daemon=True)
    thread.start()
    loop, left = started.result()
    try:
        while True:
            try:
                event = asyncio.run_coroutine_threadsafe(subscription.__anext__(), loop).result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        loop.call_soon_threadsafe(left.set)
        with suppress(RuntimeError):  # since Python 3.14 a thread cannot be waited for at the interpreter's end, nor need it be
            thread.join()
