"""A proxy that loses or repeats events of a WebSocket, to see that the load test notices."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Literal, Self

Fault = Literal["lose", "double", "fall silent"]

TEXT = 0x81


class Meddler:
    """A proxy in front of a gateway.

    On each WebSocket it loses or doubles the third event; with "fall silent" it loses the third and all later ones.
    """

    def __init__(self, target: int, fault: Fault) -> None:
        self.host = ""
        self._target = target
        self._times = {"lose": 0, "double": 2, "fall silent": 0}[fault]
        self._last = 3 if fault != "fall silent" else sys.maxsize
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.host = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, back))
                group.create_task(self._meddle(there, writer))
        except* (OSError, EOFError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            back.transport.abort()

    async def _meddle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        if not head.startswith(b"HTTP/1.1 101"):
            await _carry(reader, writer)
        events = 0
        while True:
            start = await reader.readexactly(2)
            size = start[1]
            extended = await reader.readexactly({126: 2, 127: 8}.get(size, 0))
            payload = await reader.readexactly(int.from_bytes(extended) if extended else size)
            events += start[0] == TEXT and b'"id":' in payload
            times = self._times if 3 <= events <= self._last and b'"id":' in payload else 1
            writer.write((start + extended + payload) * times)
            with suppress(ConnectionError):
                await writer.drain()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise EOFError
