"""Streams: a connection to the gateway over WebSocket or SSE, which brings texts, and turns every failure into ``Ended``.

This module needs the extra ``subscribe``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol, Self

import httpx
import websockets.asyncio.client
from httpx_sse import EventSource, SSEError
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from notify_client.following import NO_CONTENT, Ended, Following, address

OPEN_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 2**24
MAX_ANSWER_BYTES: Final = 4_096  # of a refusal, which is read for its reason
# Channels that were unfollowed on a connection and are remembered. At 20 commands a second nobody can unfollow more while an event is
# still on its way.
LEFT: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to connect.

    Attributes:
        url: of the gateway
        headers: further headers, for a proxy in front of the gateway
        ssl: the context for https; ``None`` for http
        silence: seconds without a byte after which a connection is given up
    """

    url: str
    headers: Mapping[str, str]
    ssl: ssl.SSLContext | None
    silence: float

    def headers_with(self, token: str | None) -> dict[str, str]:
        """The headers of a request with this token."""
        return dict(self.headers) | ({} if token is None else {"Authorization": f"Bearer {token}"})


class Stream(Protocol):
    """One connection."""

    @classmethod
    async def open(cls, options: ConnectOptions, following: Following, token: str | None) -> Self:
        """Connect, and ask for all channels.

        Raises:
            Ended: if that fails.
        """

    async def receive(self) -> str:
        """The next message. If the call is cancelled, the connection must be closed.

        Raises:
            Ended: when the connection has ended.
        """

    async def follow(self, channel: str) -> bool:
        """Follow one more channel; ``False`` if that takes a new connection."""

    async def unfollow(self, channel: str) -> bool:
        """Stop following a channel; ``False`` if that takes a new connection."""

    async def close(self) -> None:
        """Close it. Never fails."""


def retry_after(text: str | None) -> float | None:
    """The seconds in a ``Retry-After`` header (RFC 9110, section 10.2.3); ``None`` if there is none, or it is malformed."""
    if text is None:
        return None
    with suppress(ValueError, OverflowError):
        return float(int(text))
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None


class _Connect(websockets.asyncio.client.connect):
    """Does not follow redirects, as over SSE: websockets before 17 would send the token there, and every version the other headers."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketStream:
    """A WebSocket, on which channels are followed by commands."""

    def __init__(self, socket: websockets.asyncio.client.ClientConnection, following: Following) -> None:
        self._socket = socket
        self._following = following
        self._left: deque[str] = deque(maxlen=LEFT)

    @classmethod
    async def open(cls, options: ConnectOptions, following: Following, token: str | None) -> Self:
        """Connect, and ask for all channels.

        Raises:
            Ended: if that fails.
        """
        query = "?until=final" if following.until_final else ""
        beat = options.silence / 2
        extra: dict[str, Any] = {} if options.ssl is None else {"ssl": options.ssl}
        try:
            socket = await _Connect(
                address(options.url, "ws") + query,
                additional_headers=options.headers_with(token),
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=OPEN_SECONDS,
                close_timeout=1,
                ping_interval=beat,
                ping_timeout=beat,
                **extra,
            )
        except InvalidStatus as error:
            answer = error.response
            # A proxy on the way has refused the upgrade: the gateway itself would accept it, and close with a code.
            raise Ended(answer.status_code, answer.reason_phrase, retry_after(answer.headers.get("Retry-After"))) from None
        except (OSError, WebSocketException) as error:  # TimeoutError is an OSError
            raise Ended(0, _describe(error)) from error
        stream = cls(socket, following)
        try:
            await stream._send(following.subscribe_command())
        except asyncio.CancelledError:
            socket.transport.abort()
            raise
        return stream

    async def _send(self, command: str | None) -> None:
        if command is not None:
            with suppress(ConnectionClosed):  # receive() will tell why
                await self._socket.send(command)

    async def receive(self) -> str:
        try:
            message = await self._socket.recv()
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                raise Ended(0, closed.sent.reason if closed.sent is not None else "the connection broke") from None
            raise Ended(closed.rcvd.code, closed.rcvd.reason) from None
        return message if isinstance(message, str) else message.decode(errors="replace")

    async def follow(self, channel: str) -> bool:
        if channel in self._left:
            return False  # an event that was on its way when the channel was unfollowed would be taken for one after the new cursor
        await self._send(self._following.subscribe_command([channel]))
        return True

    async def unfollow(self, channel: str) -> bool:
        self._left.append(channel)
        await self._send(f'{{"op":"unsubscribe","channels":["{channel}"]}}')
        return True

    async def close(self) -> None:
        with suppress(OSError, WebSocketException):
            await self._socket.close()

    def __del__(self) -> None:
        # A subscription that nobody holds any more need not have been closed, for instance if its loop was left by ``break``. The
        # keepalive of websockets would answer the gateway for ever. Garbage may be collected in any thread, and after the event loop.
        with suppress(RuntimeError):
            self._socket.loop.call_soon_threadsafe(self._socket.transport.abort)


class SseStream:
    """An event stream, whose channels are in its URL."""

    def __init__(self, client: httpx.AsyncClient, answer: httpx.Response) -> None:
        self._client = client
        self._answer = answer
        self._messages = self._read()

    @classmethod
    async def open(cls, options: ConnectOptions, following: Following, token: str | None) -> Self:
        """Connect, and ask for all channels.

        Raises:
            Ended: if that fails.
        """
        timeout = httpx.Timeout(OPEN_SECONDS, read=options.silence)
        client = httpx.AsyncClient(timeout=timeout, verify=options.ssl or False)
        try:
            query = following.query()
            url = f"{address(options.url, 'sse')}?{query}"
            headers = options.headers_with(token) | {"Accept": "text/event-stream", "Cache-Control": "no-store"}
            async with asyncio.timeout(OPEN_SECONDS):
                answer = await client.send(client.build_request("GET", url, headers=headers), stream=True)
                await _check(answer)
        except (OSError, httpx.HTTPError) as error:
            await client.aclose()
            raise Ended(0, _describe(error)) from error
        except BaseException:
            await client.aclose()
            raise
        answer.encoding = "utf-8"  # that of every event stream, whatever a proxy has written into the content type
        stream = cls(client, answer)
        if following.cursors and following.query() != query:  # the channels were changed while it connected
            await stream.close()
            return await cls.open(options, following, token)
        return stream

    async def _read(self) -> AsyncIterator[str]:
        try:
            async for event in EventSource(self._answer).aiter_sse():
                if event.data:
                    yield event.data
        except (OSError, httpx.HTTPError, SSEError) as error:
            raise Ended(0, _describe(error)) from error
        raise Ended(0, "the stream ended")

    async def receive(self) -> str:
        return await anext(self._messages)

    async def follow(self, channel: str) -> bool:
        return False

    async def unfollow(self, channel: str) -> bool:
        return True  # its events are dropped, and the next connection does not ask for it

    async def close(self) -> None:
        try:
            with suppress(OSError, httpx.HTTPError):
                await self._answer.aclose()
        finally:
            await self._client.aclose()


class IdleStream:
    """No connection: an event stream of no channels would be refused."""

    @classmethod
    async def open(cls, options: ConnectOptions, following: Following, token: str | None) -> Self:  # noqa: ARG003 - as of every stream
        return cls()

    async def receive(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def follow(self, channel: str) -> bool:
        return False

    async def unfollow(self, channel: str) -> bool:
        return True

    async def close(self) -> None:
        pass


async def _check(answer: httpx.Response) -> None:
    """Check that an answer is an event stream.

    Raises:
        Ended: if it is not, with the problem's detail (RFC 9457) or the phrase of the status.
    """
    if answer.status_code == 200:
        return
    reason = answer.reason_phrase
    if answer.status_code != NO_CONTENT and int(answer.headers.get("content-length", MAX_ANSWER_BYTES + 1)) <= MAX_ANSWER_BYTES:
        with suppress(ValueError, KeyError, TypeError, RecursionError, httpx.HTTPError):
            await answer.aread()
            reason = str(answer.json()["detail"])
    await answer.aclose()
    raise Ended(answer.status_code, reason, retry_after(answer.headers.get("retry-after")))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
