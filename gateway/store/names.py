"""Names: resolves host names in threads that nobody has to wait for.

uvloop resolves names in libuv's threads, two at a time. While no name server answers, the system's resolver tries for 10 s or more. A
caller can give up sooner, but closing the event loop would wait for all these threads.
"""

from __future__ import annotations

import _thread
import asyncio
import ipaddress
import socket
from contextlib import suppress
from typing import Final

STALE_SECONDS: Final = 3.0  # a lookup older than that may take many more, although name servers answer again by now: nobody joins it
SLOW_SECONDS: Final = 1.0  # the address that such a lookup has found is not looked up again for STALE_SECONDS

Found = list[str] | OSError


class Names:
    """Resolves names. Callers that ask for the same name within ``STALE_SECONDS`` share one lookup. For use on one event loop."""

    def __init__(self) -> None:
        # When each began; that of a slow lookup that is done, when it was done.
        self._pending: dict[str, tuple[asyncio.Future[Found], float]] = {}

    async def find(self, host: str) -> list[str]:
        """The addresses of a host, best first.

        Raises:
            OSError: if there are none.
        """
        with suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        loop = asyncio.get_running_loop()
        pending, began = self._pending.get(host, (None, 0.0))
        if pending is None or loop.time() - began > STALE_SECONDS:
            pending, began = loop.create_future(), loop.time()
            try:
                # Not with threading.Thread, which waits until the new thread runs: if that finds no memory, the event loop stands still.
                _thread.start_new_thread(self._look_up, (host, pending, began, loop))
            except RuntimeError as error:
                raise OSError(f"the host cannot be looked up: {error}") from error
            self._pending[host] = pending, began  # only now: nobody may wait for a lookup that does not take place
        found = await asyncio.shield(pending)
        if isinstance(found, OSError):
            raise OSError(*found.args)  # a new one for each caller, because raising it changes its traceback
        return found

    def _look_up(self, host: str, pending: asyncio.Future[Found], began: float, loop: asyncio.AbstractEventLoop) -> None:
        found: Found
        try:
            found = list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found = OSError(*error.args)
        with suppress(RuntimeError):  # the event loop may be closed by now
            loop.call_soon_threadsafe(self._answer, host, pending, began, found)

    def _answer(self, host: str, pending: asyncio.Future[Found], began: float, found: Found) -> None:
        if not pending.done():
            pending.set_result(found)
        newest, _ = self._pending.get(host, (None, 0.0))
        if isinstance(found, OSError):
            if newest is pending:
                del self._pending[host]
            return
        # An address that comes late also serves those who wait for a newer lookup, and who come soon after. If the first of two name
        # servers is dead, each lookup takes 5 s: nobody waits so long for one, and getting ready takes connections one after the other.
        if newest is not None and not newest.done():
            newest.set_result(found)
        now = asyncio.get_running_loop().time()
        if now - began > SLOW_SECONDS:
            self._pending[host] = pending, now
        else:
            self._pending.pop(host, None)
