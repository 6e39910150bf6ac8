"""Clients that behave like browsers: they keep cursors, reconnect with jitter, and log everything they receive.

They implement WebSocket (RFC 6455) and SSE themselves, each in a bare asyncio protocol, so that one process can run ten
thousand of them beside the gateway, and so that no fault of a client library is taken for one of the gateway.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import httpx
import msgspec

from tests.faults.oracle import ClientLog, Line

Transport = Literal["ws", "sse", "poll"]

CONNECT_SECONDS = 10.0
WAIT_SECONDS = (0.05, 1.0)  # before a reconnect: the first wait, which doubles up to the longest


class _Message(msgspec.Struct):
    """The fields of an event or a notice that are checked."""

    op: str = ""
    type: str = ""
    channel: str = ""
    channels: dict[str, str] | None = None
    id: str = "0"
    data: Any = None
    code: int = 0
    status: int = 0


_decode = msgspec.json.Decoder(_Message).decode


class Follower:
    """One client.

    Args:
        name: for the report
        gateways: ``host:port`` of the gateways it may use; each connection goes to one drawn at random
        channels: the channels it follows, each with where it begins: ``0``, ``now`` or an id
        seed: of its random choices
        patience: seconds without a byte after which it gives up a connection; ``None`` for never
        receive_buffer: SO_RCVBUF of its sockets
    """

    transport: Transport = "ws"

    def __init__(
        self,
        name: str,
        gateways: Sequence[str],
        channels: Mapping[str, str],
        *,
        seed: int = 0,
        patience: float | None = 45.0,
        receive_buffer: int | None = None,
    ) -> None:
        self.name = name
        self.gateways = gateways
        self.cursors: dict[str, str] = dict(channels)
        self.positions: dict[str, int] = {}
        self.log = ClientLog(name, frozenset(channels), {c: int(since) for c, since in channels.items() if since.isdigit()})
        self.latencies: list[tuple[float, float]] | None = None
        self.connected = False
        self.ready = asyncio.Event()
        self.reconnects = 0
        self.protocol: _Wire | None = None
        self.rate: float | None = None  # bytes per second that it reads at most; ``None`` for no limit
        self._receive_buffer = receive_buffer
        self._patience = patience
        self._rng = random.Random(f"{seed} {name}")
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._up.set()

    # What a test makes it do

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            if not self._task.cancelled() and (error := self._task.exception()):
                raise error

    def drop(self) -> None:
        """Drop the connection without a close frame, like a browser that loses its network."""
        if self.protocol is not None:
            self.protocol.abort()

    def go_away(self) -> None:
        """Drop the connection, and do not reconnect before ``come_back``."""
        self._up.clear()
        self.drop()

    def come_back(self) -> None:
        self._up.set()

    def has(self, channel: str, id: int) -> bool:
        return self.positions.get(channel, -1) >= id

    # Connections

    async def _run(self) -> None:
        wait = WAIT_SECONDS[0]
        while True:
            await self._up.wait()
            host, _, port = self._rng.choice(list(self.gateways)).partition(":")
            started = time.monotonic()
            try:
                end = await self._connect(host, int(port))
            except (OSError, TimeoutError) as error:
                end = type(error).__name__
            finally:
                self.connected = False
            self.note("end", text=end)
            self.reconnects += 1
            wait = WAIT_SECONDS[0] if time.monotonic() - started > 1 else min(wait * 2, WAIT_SECONDS[1])
            await asyncio.sleep(wait * self._rng.uniform(0.5, 1))

    async def _connect(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            sock = socket.socket()
            sock.setblocking(False)
            if self._receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            try:
                await loop.sock_connect(sock, (host, port))
                _, protocol = await loop.create_connection(lambda: _WIRES[self.transport](self), sock=sock)
            except BaseException:
                sock.close()
                raise
        self.protocol = protocol
        opened = time.monotonic()
        try:
            while True:
                done, _ = await asyncio.wait([protocol.over], timeout=self._patience and self._patience / 3)
                if done:
                    return protocol.over.result()
                if self._patience and time.monotonic() - max(opened, protocol.heard) > self._patience:
                    return "silence"
        finally:
            self.protocol = None
            protocol.abort()

    # What it receives

    def note(self, kind: Literal["gap", "ready", "open", "end"], channel: str = "", text: str = "") -> None:
        self.log.lines.append(Line(time.monotonic(), kind, channel, text=text))

    def take(self, json: bytes) -> None:
        """Log an event or a notice, and move the cursor."""
        message = _decode(json)
        if not message.op:
            self._take_event(message)
        elif message.op == "gap":
            self.note("gap", message.channel)
        elif message.op == "ready":
            for channel, cursor in (message.channels or {}).items():
                self.settle(channel, cursor)
            self.note("ready", text=f" {message.channels}")
            self.ready.set()

    def settle(self, channel: str, cursor: str) -> None:
        """Take the cursor that the server has assigned on a channel."""
        self.log.begins.setdefault(channel, int(cursor))
        self.cursors[channel] = cursor
        self.positions[channel] = int(cursor)

    def _take_event(self, event: _Message) -> None:
        id = int(event.id)
        number, sent = -1, 0.0
        if isinstance(event.data, dict):
            number, sent = event.data.get("n", -1), event.data.get("t", 0.0)
        now = time.monotonic()
        self.log.lines.append(Line(now, "event", event.channel, id, number))
        if self.latencies is not None:
            self.latencies.append((sent, now - sent))
        if id:
            self.cursors[event.channel] = event.id
            self.positions[event.channel] = id

    def query(self) -> str:
        """The query string: its channels, each with its cursor."""
        return "&".join(f"channel={channel},{cursor}" for channel, cursor in self.cursors.items())


class _Wire(asyncio.Protocol):
    """One connection: sends the request and parses what arrives."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.heard = 0.0
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.head = b""
        self.why = "closed"

    def request(self) -> bytes:
        raise NotImplementedError

    def parse(self) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request())

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        self.buffer += data
        if not self.head:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = bytes(self.buffer[:end])
            del self.buffer[: end + 4]
            status = self.head.split(b" ", 2)[1].decode()
            if status not in ("101", "200"):
                self.why = status
                self.abort()
                return
            self.follower.connected = True
            self.follower.note("open", text=f" {status} from {self.transport and self.transport.get_extra_info('peername')[1]}")
        self.parse()
        if self.follower.rate is not None and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(len(data) / self.follower.rate, self._read_on)

    def _read_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(self.why if exc is None else f"{self.why}, {type(exc).__name__}")

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _WebSocket(_Wire):
    def request(self) -> bytes:
        follower = self.follower
        return (
            f"GET /ws?{follower.query()} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def parse(self) -> None:
        buffer, place = self.buffer, 0
        while len(buffer) - place >= 2:
            kind, size, head = buffer[place], buffer[place + 1], 2
            if size == 126:
                size, head = int.from_bytes(buffer[place + 2 : place + 4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(buffer[place + 2 : place + 10], "big"), 10
            if len(buffer) - place < head + size:
                break
            payload = bytes(buffer[place + head : place + head + size])
            place += head + size
            self._frame(kind, payload)
        del buffer[:place]

    def _frame(self, kind: int, payload: bytes) -> None:
        assert self.transport is not None
        if kind == 0x81:
            self.follower.take(payload)
        elif kind == 0x89:
            self.transport.write(b"\x8a\x80\0\0\0\0")
        elif kind == 0x88:
            code = int.from_bytes(payload[:2], "big")
            self.why = f"close {code}"
            self.transport.write(b"\x88\x82\0\0\0\0" + payload[:2])
            self.transport.close()
        else:
            raise AssertionError(f"a frame of kind {kind:#x} came")

    def send(self, text: bytes) -> None:
        """Send a command, masked with zeros."""
        assert self.transport is not None
        if self.transport.is_closing():
            return
        size = bytes((0x80 | len(text),)) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        self.transport.write(b"\x81" + size + b"\0\0\0\0" + text)


class _EventStream(_Wire):
    """SSE as an EventSource does it: every connection has the same URL, and one last event id counts for all channels."""

    def __init__(self, follower: Follower) -> None:
        super().__init__(follower)
        self.body = bytearray()

    def request(self) -> bytes:
        follower = self.follower
        assert isinstance(follower, SseFollower)
        last = f"Last-Event-ID: {follower.last_id}\r\n" if follower.last_id else ""
        return f"GET /sse?{follower.first_query} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n{last}\r\n".encode()

    def parse(self) -> None:
        while (end := self.buffer.find(b"\r\n")) >= 0:
            size = int(self.buffer[:end], 16)
            if len(self.buffer) < end + 2 + size + 2:
                return
            self.body += self.buffer[end + 2 : end + 2 + size]
            del self.buffer[: end + 2 + size + 2]
            if size == 0:
                self.abort()
                return
            while (end := self.body.find(b"\n\n")) >= 0:
                self._block(bytes(self.body[:end]))
                del self.body[: end + 2]

    def _block(self, block: bytes) -> None:
        follower = self.follower
        assert isinstance(follower, SseFollower)
        id, name, data = "", "", b""
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                data = line[6:]
            elif line.startswith(b"id: "):
                id = line[4:].decode()
            elif line.startswith(b"event: "):
                name = line[7:].decode()
        if name == "bye":
            self.why = f"bye {_decode(data).code}"
        elif data:
            follower.take(data)
        if id:
            follower.last_id = id


_WIRES: dict[str, type[_Wire]] = {"ws": _WebSocket, "sse": _EventStream}


class SseFollower(Follower):
    transport = "sse"

    def __init__(self, name: str, gateways: Sequence[str], channels: Mapping[str, str], **options: Any) -> None:
        assert "now" not in channels.values(), "an EventSource that has received no event yet reconnects without a cursor"
        super().__init__(name, gateways, channels, **options)
        self.first_query = self.query()
        self.last_id = ""

    def settle(self, channel: str, cursor: str) -> None:
        self.log.begins.setdefault(channel, int(cursor))


class PollFollower(Follower):
    transport = "poll"
    _answers = 0
    _request: asyncio.Task[httpx.Response] | None = None

    def drop(self) -> None:
        if self._request is not None:
            self._request.cancel()

    async def _connect(self, host: str, port: int) -> str:
        async with httpx.AsyncClient(timeout=CONNECT_SECONDS) as client:
            while self._up.is_set():
                try:
                    # As behind a load balancer: each request may go to another gateway.
                    answer = await self._ask(client, self._rng.choice(list(self.gateways)))
                except httpx.HTTPError as error:
                    return type(error).__name__
                if answer is None:
                    return "dropped"
                if answer.status_code != 200:
                    return str(answer.status_code)
                self.connected = True
                body = msgspec.json.decode(answer.content)
                first = len(self.log.lines)
                for channel in body["gaps"]:
                    self.note("gap", channel)
                for event in body["events"]:
                    self.take(msgspec.json.encode(event))
                self._answers += 1
                for line in self.log.lines[first:]:
                    line.answer = self._answers
                for channel, cursor in body["channels"].items():
                    self.settle(channel, cursor)
                self.ready.set()
        return "away"

    async def _ask(self, client: httpx.AsyncClient, address: str) -> httpx.Response | None:
        """One poll, in a task of its own, which ``drop`` cancels with its connection; ``None`` if that happened."""
        wait = 2 if self.ready.is_set() else 0
        self._request = asyncio.create_task(client.get(f"http://{address}/poll?{self.query()}&wait={wait}"))
        try:
            await asyncio.wait([self._request])
            return None if self._request.cancelled() else self._request.result()
        finally:
            self._request.cancel()
            self._request = None


FOLLOWERS: dict[Transport, type[Follower]] = {"ws": Follower, "sse": SseFollower, "poll": PollFollower}
