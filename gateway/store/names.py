"""Names: resolves host names in threads that nobody has to wait for.

uvloop resolves names in libuv's threads, two at a time. While no name server answers, the system's resolver tries for 10 s or more. A
caller can give up sooner, but closing the event loop would wait for all these threads.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress
from typing import Final

STALE_SECONDS: Final = 3.0  # a lookup older than that may take many more, although name servers answer again by now: nobody joins it

Found = list[str] | OSError


class Names:
    """Resolves names. Callers that ask for the same name within ``STALE_SECONDS`` share one lookup. For use on one event loop."""

    def __init__(self) -> None:
        self._pending: dict[str, tuple[asyncio.Future[Found], float]] = {}  # and when each began

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
            pending = loop.create_future()
            self._pending[host] = pending, loop.time()
            threading.Thread(target=self._look_up, args=(host, pending, loop), name="names", daemon=True).start()
        found = await asyncio.shield(pending)
        if isinstance(found, OSError):
            raise OSError(*found.args)  # a new one for each caller, because raising it changes its traceback
        return found

    def _look_up(self, host: str, pending: asyncio.Future[Found], loop: asyncio.AbstractEventLoop) -> None:
        found: Found
        try:
            found = list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found = OSError(*error.args)
        with suppress(RuntimeError):  # the event loop may be closed by now
            loop.call_soon_threadsafe(self._answer, host, pending, found)

    def _answer(self, host: str, pending: asyncio.Future[Found], found: Found) -> None:
        if self._pending.get(host, (None, 0.0))[0] is pending:
            del self._pending[host]
        pending.set_result(found)
