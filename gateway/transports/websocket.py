"""WebSocket: ``GET /ws`` (RFC 6455). Text frames both ways: an event has ``channel``, a notice or a command has ``op``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from gateway import metrics
from gateway.core.event import show
from gateway.core.grant import Grant
from gateway.core.notices import Ref
from gateway.core.page import Since
from gateway.core.rate_limit import RateLimit
from gateway.core.wire import FRAME, TEXT, Wire
from gateway.errors import BadRequest, Forbidden, GatewayError, TooLarge, TooMany, UnsupportedMedia
from gateway.tasks import finish
from gateway.transports.follower import Follower
from gateway.transports.log_lines import log_refusal
from gateway.transports.request import StreamRequest, check_channel, check_number, check_readable, parse_request, parse_since
from gateway.transports.room import address_of
from gateway.transports.services import Services
from gateway.transports.writer import EXTENSION, DirectSocket, Message, Receive, Send, SendWriter, Writer

logger = logging.getLogger("gateway.websocket")

PING: Final = b"\x89\x00"
MAX_COMMAND_BYTES: Final = 65_536
MAX_REF_BYTES: Final = 256
MAX_UNANSWERED: Final = 300  # subscribe commands that wait for their ready notice
MAX_LEFT: Final = 1_024  # channels in one unsubscribe: a page may give up at once what it follows and what it was refused
COMMANDS_AT_ONCE: Final = 300  # enough for one command for each of 128 channels, twice over
COMMANDS_PER_SECOND: Final = 20.0
# New channels are limited apart from commands, because each costs this process and Redis half as much as a handshake, and one command
# can name as many as a client may follow. One turn is that many channels, and at least MIN_IN_TURN, for pages that go from one channel
# to the next. A client may take TURNS_AT_ONCE, and then another one every TURN_SECONDS.
TURNS_AT_ONCE: Final = 4
TURN_SECONDS: Final = 2.0
MIN_IN_TURN: Final = 128
MAX_REASON_BYTES: Final = 123  # RFC 6455, section 5.5: a control frame holds 125 bytes, of which the code takes 2

_decode: Final = msgspec.json.Decoder(dict[str, Any])


def close_reason(text: str) -> str:
    """The text, cut to what fits into a close frame."""
    data = text.encode()
    return text if len(data) <= MAX_REASON_BYTES else data[: MAX_REASON_BYTES - 3].decode(errors="ignore") + "..."


class Socket(Follower):
    """One open WebSocket."""

    __slots__ = ("_channel_rate", "_command_rate")
    transport = "websocket"

    def __init__(
        self, services: Services, grant: Grant, writer: Writer, send: Send, wire: Wire, *, until_final: bool, greeting: bytes = b""
    ) -> None:
        super().__init__(services, grant, writer, send, wire, until_final=until_final, greeting=greeting)
        self._command_rate: RateLimit | None = None  # most clients never send a command
        self._channel_rate: RateLimit | None = None

    def beat(self) -> None:
        if self.subscription.wire is FRAME:  # a foreign server sends pings of its own
            self.subscription.greet()
            self.writer.write(PING)

    async def goodbye(self, code: int, reason: str) -> None:
        self._services.feed.leave(self.subscription)
        self.subscription.greet()
        if isinstance(self.writer, SendWriter):
            await self.writer.flushed()
        await self._send({"type": "websocket.close", "code": code, "reason": close_reason(reason)})

    def detach(self) -> bool:
        return not isinstance(self.writer, SendWriter) and cast("DirectSocket", self.writer).detach(self.on_message)

    async def carry(self, receive: Receive) -> None:
        if not isinstance(self.writer, SendWriter):
            return  # it could not be detached, because the client is gone
        serve = asyncio.ensure_future(self.serve(receive))
        others = [asyncio.ensure_future(work) for work in (self.writer.run(), self.writer.aborted())]
        try:
            await asyncio.wait([serve, *others], return_when=asyncio.FIRST_COMPLETED)
            if serve.done():
                await serve
        finally:
            await finish((serve, *others))

    # What the client sends

    def on_message(self, message: Message) -> None:
        """Handle a message on a detached connection, which has no task of its own."""
        self._services.connections.spawn(self._handle_detached(message))

    async def _handle_detached(self, message: Message) -> None:
        try:
            try:
                await self.handle(message)
            except GatewayError as error:
                await self._send_away(error)
        except Exception:
            logger.exception("a command failed")
            self._failed()
        finally:
            cast("DirectSocket", self.writer).message_done()

    async def serve(self, receive: Receive) -> None:
        """Handle messages until the client is gone, or is sent away."""
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                await self.handle(message)
                if self.subscription.full and isinstance(self.writer, SendWriter):
                    await self.writer.flushed()  # no more commands are taken from a client that does not take the answers
        except GatewayError as error:
            await self._send_away(error)

    async def _send_away(self, error: GatewayError) -> None:
        metrics.refused(error)
        self._services.connections.note_end(self, error.close_code, error.detail)
        with suppress(RuntimeError, OSError):  # the connection is being closed already, or the client is gone
            await self.goodbye(error.close_code, error.detail)

    async def handle(self, message: Message) -> None:
        """Carry out the command in a message, or answer with an error notice.

        Raises:
            GatewayError: if the client has to be sent away.
        """
        now = asyncio.get_running_loop().time()
        if self._command_rate is None:
            self._command_rate = RateLimit(now, "commands", COMMANDS_AT_ONCE, COMMANDS_PER_SECOND)
        self._command_rate.take(now)
        text = message.get("text")
        if text is None:
            raise UnsupportedMedia("binary frame: commands are JSON in text frames")
        if len(text) > MAX_COMMAND_BYTES:
            raise TooLarge(f"a command of {len(text)} characters: at most {MAX_COMMAND_BYTES} bytes are allowed")
        if not self.subscription.closed:
            await self._command(text)

    async def _command(self, text: str) -> None:
        ref: Ref = None
        try:
            try:
                command = _decode.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                # The text is not quoted, because there may be a token in it.
                raise BadRequest(f"the command is not a JSON object with op: {error}") from None
            ref = _ref(command.pop("ref", None))
            match command.pop("op", None):
                case "subscribe":
                    self._subscribe(ref, command.pop("channels", None))
                case "unsubscribe":
                    self._unsubscribe(ref, command.pop("channels", None))
                case "auth":
                    await self._authorise(ref, command.pop("token", None))
                case "ping":
                    self.subscription.notice("pong", {} if ref is None else {"ref": ref})
                case op:
                    raise BadRequest(f"op {show(op)}: subscribe, unsubscribe, auth and ping are known")
        except GatewayError as error:
            self._refuse(ref, error)

    def _refuse(self, ref: Ref, error: GatewayError) -> None:
        metrics.refused(error)  # and not logged: the detail may quote a part of the command, in which there may be a token
        problem = error.problem()
        del problem["type"]
        self.subscription.notice("error", ({} if ref is None else {"ref": ref}) | problem)

    def _subscribe(self, ref: Ref, channels: object) -> None:
        if not isinstance(channels, dict) or not channels:
            raise BadRequest(f"channels {show(channels)}: an object of names, each with null or a cursor, is expected")
        check_number(channels, self._services.max_channels)  # first, so that a huge command costs little
        begin: dict[str, Since] = {}
        for name, since in channels.items():
            check_channel(name)
            if since is not None and not isinstance(since, str):
                raise BadRequest(f"channel {show(name)}: cursor {show(since)}: a text or null is expected", channel=name)
            begin[name] = "last" if since is None else parse_since(since, name)
        check_number(dict.fromkeys([*self.subscription.cursors, *begin]), self._services.max_channels)
        check_readable(self.grant, begin)
        if self.subscription.unanswered >= MAX_UNANSWERED:
            raise TooMany(f"{MAX_UNANSWERED} commands to subscribe wait for their answer: more may not")
        self._check_channel_rate(len(begin.keys() - self.subscription.cursors.keys()))
        self._services.feed.follow(self.subscription, begin, ref)

    def _check_channel_rate(self, count: int) -> None:
        now, most = asyncio.get_running_loop().time(), max(self._services.max_channels, MIN_IN_TURN)
        if self._channel_rate is None:
            self._channel_rate = RateLimit(now, "channels", TURNS_AT_ONCE * most, most / TURN_SECONDS)
        self._channel_rate.take(now, count)

    def _unsubscribe(self, ref: Ref, channels: object) -> None:
        if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
            raise BadRequest(f"channels {show(channels)}: an array of names is expected")
        if len(channels) > (most := max(self._services.max_channels, MAX_LEFT)):
            raise BadRequest(f"{len(channels)} channels: at most {most} can be left at once")
        for name in channels:
            check_channel(name)
        self._services.feed.leave(self.subscription, channels)
        if ref is not None:
            self.subscription.notice("ready", {"ref": ref, "channels": self.subscription.positions()})
        self.subscription.check_done()

    async def _authorise(self, ref: Ref, token: object) -> None:
        """Go on with another token of the same subject. Channels that it does not allow are dropped at once."""
        if not isinstance(token, str):
            raise BadRequest("token: a text is expected")
        services, subscription = self._services, self.subscription
        grant = await services.gate.verify(token)
        if grant.subject != self.grant.subject:
            self.on_access_lost(Forbidden("the token is another subject's: open a connection of its own"))
            return
        if subscription.closed:
            return
        services.access.change(self, grant)
        lost = [name for name in subscription.cursors if not grant.may_read(name)]
        services.feed.leave(subscription, lost)
        for name in lost:
            self._refuse(None, Forbidden(f"channel {show(name)}: the new token does not allow it", channel=name))
        if ref is not None:
            subscription.notice("ready", {"ref": ref, "channels": subscription.positions()})
        subscription.check_done()


def _ref(value: object) -> Ref:
    # It must be short, because it is kept until the answer, which waits for Redis.
    if value is None or (isinstance(value, str | int | float) and len(msgspec.json.encode(value)) <= MAX_REF_BYTES):
        return value
    raise BadRequest(f"ref {show(value)}: a text or a number is expected, at most {MAX_REF_BYTES} bytes")


class WebSocketEndpoint:
    """Opens WebSockets."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one upgrade.

        Raises:
            Unavailable: before the upgrade is accepted, if no further stream may be opened.
        """
        services = self._services
        began = time.perf_counter()
        address = address_of(scope)
        services.check_room(address)
        await receive()
        try:
            request, grant = await self._authenticate(scope, address)
        except GatewayError as error:
            metrics.refused(error)
            log_refusal(scope, error)
            # A page cannot read the status of a refused upgrade, but it can read a close code.
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": error.close_code, "reason": close_reason(error.detail)})
            return
        socket = await self._begin(scope, send, request, grant)
        if not socket.open(address, request.channels, began):
            try:
                await socket.carry(receive)
            finally:
                socket.leave()

    async def _begin(self, scope: Mapping[str, Any], send: Send, request: StreamRequest, grant: Grant) -> Socket:
        """Accept the upgrade."""
        direct: DirectSocket | None = scope.get("extensions", {}).get(EXTENSION)
        writer = direct or SendWriter(send, lambda data: {"type": "websocket.send", "text": data.decode()}, join=False)
        # As in an event stream, the head leaves with the first events, in one write; but nothing is held back during a drain.
        held = direct if request.channels and not self._services.draining else None
        if held is not None:
            held.hold_head()
        await send({"type": "websocket.accept"})
        greeting = b"" if held is None else held.take_head()
        wire = TEXT if direct is None else FRAME
        return Socket(self._services, grant, writer, send, wire, until_final=request.until_final, greeting=greeting)

    async def _authenticate(self, scope: Mapping[str, Any], address: str) -> tuple[StreamRequest, Grant]:
        """What an upgrade asks for, and the grant that allows it."""
        request = parse_request(scope, self._services.max_channels)
        grant = await self._services.gate.authenticate(scope, request.channels)
        check_readable(grant, request.channels)
        self._services.connections.room.check(address, grant.subject)
        return request, grant
