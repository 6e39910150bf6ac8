"""A TCP proxy that fails on command, to be put between client and gateway or between gateway and Redis."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Literal, Self

Mode = Literal["pass", "swallow", "refuse"]

READ_BYTES = 65_536


class Proxy:
    """Forwards connections to a target port. All attributes may be changed while it runs.

    Attributes:
        port: where it listens, on loopback
        target: the port that new connections are forwarded to
        mode: ``pass`` forwards; ``swallow`` accepts bytes and discards them, like a half-open connection; ``refuse`` resets new
            connections
        latency: seconds by which each piece of data is delayed
        rate: bytes per second towards the client, ``None`` for no limit
        cut_after: a connection is reset once this many bytes went towards its client; ``None`` for never
        carried: bytes sent towards clients so far
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.target = target
        self.mode: Mode = "pass"
        self.latency = 0.0
        self.rate: float | None = None
        self.cut_after: int | None = None
        self.carried = 0
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=READ_BYTES, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        tasks = list(self._pairs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reset(self) -> None:
        """Reset every connection that is open."""
        for writers in self._pairs.values():
            for writer in writers:
                _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = [writer]
        try:
            if self.mode == "refuse":
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.target, limit=READ_BYTES)
            self._pairs[task].append(back)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, back, to_client=False))
                group.create_task(self._carry(there, writer, to_client=True))
        except* (OSError, EOFError):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            for each in self._pairs.pop(task):
                if not each.is_closing():
                    _reset(each)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool) -> None:
        carried = 0
        while data := await reader.read(READ_BYTES):
            if self.latency:
                await asyncio.sleep(self.latency)
            while self.mode == "swallow":
                # Bytes have been discarded, so the connection cannot go on later: it is reset when the mode changes.
                if not await reader.read(READ_BYTES) or self.mode != "swallow":
                    raise ConnectionResetError
            if to_client and self.cut_after is not None and carried + len(data) >= self.cut_after:
                writer.write(data[: max(0, self.cut_after - carried)])
                raise ConnectionResetError
            for piece in self._pieces(data, to_client=to_client):
                writer.write(piece)
                await writer.drain()
                if to_client:
                    carried += len(piece)
                    self.carried += len(piece)
                    if self.rate is not None:
                        await asyncio.sleep(len(piece) / self.rate)
        writer.close()
        raise EOFError

    def _pieces(self, data: bytes, *, to_client: bool) -> list[bytes]:
        if not to_client or self.rate is None:
            return [data]
        size = max(1, int(self.rate / 10))
        return [data[i : i + size] for i in range(0, len(data), size)]


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, AttributeError, ValueError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
