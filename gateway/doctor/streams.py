"""Streams: a WebSocket and an event stream, opened as a browser would, which note when things happen."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final, Self

import httpx
import msgspec
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

OPEN_SECONDS: Final = 10.0
ENCODINGS: Final = "gzip, deflate, br, zstd"  # as browsers offer them

_decode: Final = msgspec.json.Decoder(dict[str, Any])


def trusting_context() -> ssl.SSLContext:
    """A context for TLS that trusts the authorities that httpx brings, and those of this machine, as its browsers do.

    A company's own may be among the latter. It takes a while to load them.
    """
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def make_client(url: str, timeout: float | httpx.Timeout) -> httpx.AsyncClient:
    """An HTTP client for a URL."""
    return httpx.AsyncClient(timeout=timeout, verify=trusting_context() if url.startswith("https:") else False)


class Stream:
    """One open stream.

    Attributes:
        status: of the answer, 101 for an upgrade; 0 before that
        headers: of the answer, if it is an event stream
        first: seconds until the first bytes came; ``None`` before that
        ready: set when the ready notice comes, or the stream ends
        came: set whenever a message comes, or the stream ends
        heard: when the last bytes came, by the monotonic clock
        ended: when the stream ended; ``None`` while it is open
        why: how it ended
        events: when each event came, by its id
    """

    name = ""

    def __init__(self, base: str, channel: str, headers: Mapping[str, str]) -> None:
        self._base = base
        self._channel = channel
        self._headers = headers
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.first: float | None = None
        self.ready = asyncio.Event()
        self.came = asyncio.Event()
        self.heard = self._began
        self.ended: float | None = None
        self.why = ""
        self.events: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._follow()
            self.why = self.why or "it was closed without a word"
        except InvalidStatus as error:
            self.status = error.response.status_code
            self.why = f"answered {self.status}"
        except ConnectionClosed as error:
            self.why = f"closed with {error.rcvd.code}: {error.rcvd.reason}" if error.rcvd else "cut without a close frame"
        except (httpx.HTTPError, WebSocketException, OSError, TimeoutError, EOFError) as error:
            self.why = f"{type(error).__name__}: {error}".rstrip(": ")
        finally:
            self.ended = time.monotonic()
            self.ready.set()
            self.came.set()

    async def _follow(self) -> None:
        raise NotImplementedError

    def _hear(self) -> None:
        self.heard = time.monotonic()
        if self.first is None:
            self.first = self.heard - self._began

    def _take(self, json: str) -> None:
        try:
            message = _decode.decode(json)
        except msgspec.DecodeError:
            return
        if message.get("op") == "ready":
            self.ready.set()
        elif message.get("op") == "bye":
            self.why = f"closed with {message.get('code')}: {message.get('reason')}"
        elif "id" in message:
            self.events[str(message["id"])] = self.heard
        self.came.set()


class Socket(Stream):
    """A WebSocket."""

    name = "WebSocket"

    async def _follow(self) -> None:
        address = f"{self._base.replace('http', 'ws', 1)}/ws?channel={self._channel}&since=now"
        hear = self._hear

        class Connection(websockets.ClientConnection):
            """Notes all bytes: a ping of the gateway is not a message, but it too keeps a proxy from taking the stream for idle."""

            def data_received(self, data: bytes) -> None:
                hear()
                super().data_received(data)

        async with websockets.connect(
            address,
            ssl=trusting_context() if self._base.startswith("https:") else None,
            additional_headers=self._headers,
            open_timeout=OPEN_SECONDS,
            ping_interval=None,
            close_timeout=1,
            create_connection=Connection,
        ) as socket:
            self.status = 101
            while True:
                text = await socket.recv()
                self._take(text if isinstance(text, str) else "")


class EventStream(Stream):
    """An event stream (SSE)."""

    name = "SSE"

    async def _follow(self) -> None:
        address = f"{self._base}/sse?channel={self._channel}&since=now"
        headers = {**self._headers, "accept": "text/event-stream", "accept-encoding": ENCODINGS}
        timeout = httpx.Timeout(OPEN_SECONDS, read=None)
        async with make_client(self._base, timeout) as client, client.stream("GET", address, headers=headers) as answer:
            self.status = answer.status_code
            self.headers = answer.headers
            if answer.status_code != 200:
                self.why = f"answered {answer.status_code}"
                return
            rest = ""
            async for data in answer.aiter_bytes():
                self._hear()
                *lines, rest = (rest + data.decode(errors="replace")).split("\n")
                for line in lines:
                    if line.startswith("data:"):
                        self._take(line.removeprefix("data:"))
