"""Subscription: the events of channels as an async iterator, which reconnects by itself and loses nothing."""

from __future__ import annotations

import asyncio
import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal, Self, TypedDict, Unpack

from notify_client.event import Event, Refused
from notify_client.following import Ended, Following, Gap, address

if TYPE_CHECKING:
    from notify_client.streams import Stream

Channels = Iterable[str] | Mapping[str, str | None]
"""The names of channels, or a mapping from names to the cursors from which to go on (``None`` for none)."""

SILENCE: Final = 50.0  # seconds; the gateway sends a heartbeat every 20
PATIENCE: Final = 10.0  # seconds for which the connection is kept when a wait for the next event was cancelled

logger: Final = logging.getLogger("notify_client")


class Options(TypedDict, total=False):
    """The options of ``subscribe`` and ``watch``.

    Attributes:
        token: a token, or a function or async function that returns one, which is called for each connection
        since: where to begin on channels without a cursor: with the newest event (``None`` or ``"last"``), with all that is kept
            (``"0"``), with new events only (``"now"``), or after an id
        until_final: whether to end once the final event of every channel was delivered
        transport: ``"ws"`` for WebSocket, ``"sse"``, or ``"auto"`` for WebSocket, and SSE if WebSocket does not get through
        on_gap: called with a channel's name, and awaited if it is async, when events of that channel are missing because the log
            no longer holds them, before the next event of that channel. Load the channel's state from your own backend there. If it
            is not given, a warning is logged
        headers: further headers, for a proxy in front of the gateway
        ssl: the context for ``https``, if the system's certificates are not the right ones
        silence: seconds without a byte after which a connection counts as dead
    """

    token: str | Callable[[], str | Awaitable[str]] | None
    since: str | None
    until_final: bool
    transport: Literal["auto", "ws", "sse"]
    on_gap: Callable[[str], object] | None
    headers: Mapping[str, str] | None
    ssl: ssl.SSLContext | None
    silence: float


class Subscription:
    """The events of some channels, as they come. Made by ``subscribe``.

    It is an async iterator of ``Event``, and an async context manager that closes the connection. A cancelled ``anext`` loses no event;
    if none follows for some seconds, the connection is closed, and the next one connects again. Only one task may iterate; others may
    call ``follow``, ``unfollow`` and ``aclose`` meanwhile.
    """

    def __init__(self, url: str, channels: Channels, **options: Unpack[Options]) -> None:
        try:
            from notify_client import streams  # noqa: PLC0415 - publishing needs no HTTP
        except ImportError as error:
            raise ImportError(f"subscribe needs {error.name}: pip install 'notify-gateway-client[subscribe]'") from error
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"{', '.join(sorted(unknown))}: unknown; known are {', '.join(Options.__annotations__)}")
        secure = address(url, "ws").startswith("wss:")
        silence = options.get("silence", SILENCE)
        if not silence > 0:
            raise ValueError(f"silence {silence}: seconds above 0 are expected")
        self._token = options.get("token")
        self._on_gap = options.get("on_gap")
        self._following = Following(
            channels,
            since=options.get("since"),
            until_final=options.get("until_final", False),
            transport=options.get("transport", "auto"),
            renewable=callable(self._token),
        )
        context = (options.get("ssl") or ssl.create_default_context()) if secure else None
        self._connect_options = streams.ConnectOptions(url=url, headers=options.get("headers") or {}, ssl=context, silence=silence)
        self._kinds: Final[dict[str, type[Stream]]] = {"ws": streams.WebSocketStream, "sse": streams.SseStream, "idle": streams.IdleStream}
        self._stream: Stream | None = None
        self._pending: asyncio.Task[Event | None] | None = None  # gets the next event
        self._interrupted: asyncio.Task[Event | None] | None = None  # was cancelled because another connection is needed, or none
        self._leaving: asyncio.TimerHandle | asyncio.Task[None] | None = None  # closes the connection if nobody waits for an event again
        self._not_before = 0.0  # when to connect again, by the event loop's clock
        self._gap: str | None = None  # the channel of a gap that the user has not been told of yet
        self._closed = False

    @property
    def cursors(self) -> dict[str, str | None]:
        """The cursor of each channel. ``subscribe`` takes them as its channels to go on from there, perhaps in another process."""
        return dict(self._following.cursors)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            StopAsyncIteration: when every channel is over (with ``until_final``), or this was closed.
            Refused: if the gateway will not serve it. Iterating again tries again.
            Exception: what ``token`` or ``on_gap`` raises. Iterating again goes on.
        """
        self._stay()
        # In a task, which a cancelled call leaves to the next one, because it may be about to connect, or hold an event.
        while True:
            if self._pending is None:
                self._pending = asyncio.ensure_future(self._next())
            pending = self._pending
            try:
                await asyncio.wait([pending])
            except asyncio.CancelledError:
                # There may be no next one: a timeout that ends a bare ``async for`` does not close the connection.
                self._leaving = asyncio.get_running_loop().call_later(PATIENCE, self._leave)
                raise
            self._settle(pending)
            if pending is not self._interrupted or not pending.cancelled():
                break
        event = pending.result()  # also if it is a cancellation from within ``token`` or ``on_gap``: that is no end of the channels
        if event is None:
            await self.aclose()
            raise StopAsyncIteration
        return event

    async def _next(self) -> Event | None:
        loop = asyncio.get_running_loop()
        while not self._closed and not self._following.is_over:
            try:
                await self._tell_gap()
                if self._stream is None:
                    await asyncio.sleep(self._not_before - loop.time())
                    token = await self._get_token()
                    transport = self._following.transport
                    kind = self._kinds["idle" if transport == "sse" and not self._following.cursors else transport]
                    self._stream = await kind.open(self._connect_options, self._following, token)
                item = self._following.receive(await self._stream.receive(), loop.time())
            except Ended as ended:
                await self._lose(ended)
            except Refused:
                await self._drop()
                raise
            else:
                if isinstance(item, Event):
                    return item
                self._gap = item.channel if isinstance(item, Gap) else None
        return None

    async def _tell_gap(self) -> None:
        channel, self._gap = self._gap, None
        if channel is None:
            return
        if self._on_gap is None:
            logger.warning("events of channel %s are missing; give on_gap to hear of it", channel)
            return
        told = self._on_gap(channel)
        if inspect.isawaitable(told):
            await told  # if this is cancelled, the connection is closed, and the next one will tell of the same gap

    async def _get_token(self) -> str | None:
        if not callable(self._token):
            return self._token
        # An ordinary function is called in a thread, because it may wait for a server.
        token = self._token() if inspect.iscoroutinefunction(self._token) else await asyncio.to_thread(self._token)
        return await token if inspect.isawaitable(token) else token

    async def _lose(self, ended: Ended) -> None:
        await self._drop()
        now = asyncio.get_running_loop().time()
        wait = self._following.end(ended, now)
        if wait is None:
            self._closed = True
            return
        # One warning for each outage, not one for each attempt.
        first = self._following.failures == 2
        logger.log(logging.WARNING if first else logging.DEBUG, "no connection to the gateway: %s; next attempt in %.1f s", ended, wait)
        self._not_before = now + wait

    async def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    def _stay(self) -> None:
        if isinstance(self._leaving, asyncio.TimerHandle):
            self._leaving.cancel()

    def _leave(self) -> None:
        self._leaving = asyncio.ensure_future(self._interrupt())

    async def _interrupt(self) -> None:
        """Close the connection, also while a task waits for its next message."""
        pending = self._pending
        try:
            if pending is not None and pending.cancel():
                self._interrupted = pending
                await asyncio.wait([pending])
                if pending.cancelled():
                    self._settle(pending)
        finally:
            await self._drop()

    def _settle(self, pending: asyncio.Task[Event | None]) -> None:
        # The task that iterates and one that closes may wait for the same task, and either may be the first to go on.
        if self._pending is pending:
            self._pending = None

    async def follow(self, channel: str, cursor: str | None = None) -> None:
        """Follow one more channel.

        Args:
            channel: its name
            cursor: from which to go on; as ``since`` says if not given

        Raises:
            ValueError: if the name or the cursor is wrong. If the token does not allow the channel, iterating raises ``Refused``.
        """
        known = channel in self._following.cursors
        self._following.follow(channel, cursor)
        if known or self._stream is None:
            return
        try:
            if await self._stream.follow(channel):
                return
            if asyncio.current_task() is self._pending:  # called by ``on_gap``; the task goes on, and connects again
                await self._drop()
            else:
                await self._interrupt()
        except asyncio.CancelledError:
            self._following.unfollow(channel)  # the connection may not have it, so the next call must not take it for known
            raise

    async def unfollow(self, channel: str) -> None:
        """Stop following a channel. None of its events is delivered after this."""
        self._following.unfollow(channel)
        if self._stream is not None:
            await self._stream.unfollow(channel)

    async def aclose(self) -> None:
        """Close the connection, which ends the iteration."""
        self._closed = True
        self._stay()
        await self._interrupt()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def subscribe(url: str, channels: Channels, **options: Unpack[Options]) -> Subscription:
    """Follow channels of a gateway.

        async with subscribe("http://localhost:8000", ["jobs:42"], token=get_token, until_final=True) as events:
            async for event in events:
                print(event.type, event.data)

    It reconnects by itself, goes on where it was, and delivers no event twice.

    Args:
        url: of the gateway, such as ``http://localhost:8000`` or ``https://example.com/notify``
        channels: their names, or a mapping from their names to the cursors from which to go on
        options: see ``Options``

    Returns:
        What ``async for`` iterates over. It connects with the first event that is asked for.

    Raises:
        ValueError, TypeError: if an argument is wrong.
        ImportError: if the extra ``subscribe`` is not installed.

    Iterating raises ``Refused`` if the gateway will not serve this: the request is wrong, a channel is not allowed, or the token is
    invalid and ``token`` gave no better one.
    """
    return Subscription(url, channels, **options)
