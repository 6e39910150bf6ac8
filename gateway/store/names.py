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


class Names:
    """Resolves names. Callers that ask for the same name at the same time share one lookup. For use on one event loop."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[list[str] | OSError]] = {}

    async def find(self, host: str) -> list[str]:
        """The addresses of a host, best first.

        Raises:
            OSError: if there are none.
        """
        with suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        pending = self._pending.get(host)
        if pending is None:
            loop = asyncio.get_running_loop()
            pending = self._pending[host] = loop.create_future()
            threading.Thread(target=self._look_up, args=(host, loop), name="names", daemon=True).start()
        found = await asyncio.shield(pending)
        if isinstance(found, OSError):
            raise OSError(*found.args)  # a new one for each caller, because raising it changes its traceback
        return found

    def _look_up(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        found: list[str] | OSError
        try:
            found = list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found = OSError(*error.args)
        with suppress(RuntimeError):  # the event loop may be closed by now
            loop.call_soon_threadsafe(self._answer, host, found)

    def _answer(self, host: str, found: list[str] | OSError) -> None:
        self._pending.pop(host).set_result(found)
