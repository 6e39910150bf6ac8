"""Sockets: a WebSocket connection, from the checked head of its upgrade to its end (RFC 6455).

uvicorn's protocol parses the head again, answers it by way of two header objects, and keeps both of them, three queues and a parser for
as long as the connection lasts: 15 KiB and 200 us. Here the answer is one template, and there is no parser until the client sends
something (server/conversation.py).

    _state      what it means                               what leads out of it
    CONNECTING  the application has not answered the head   it accepts: OPEN; it refuses or fails: CLOSED; bytes come: aborted
    OPEN        messages go both ways                       _close(): CLOSING; the client's close frame: CLOSED; a violation: FAILED
    CLOSING     our close frame was sent, messages that     the client's close frame or _timer: the transport is closed;
                come are dropped                            a violation: FAILED
    FAILED      the same, but all that comes is dropped     _timer: the transport is aborted
    CLOSED      nothing may be sent any more                nothing; connection_lost() leads here from every state

A message waits in ``_messages`` for ``receive``, or after ``detach`` for ``_on_message``, which has one in hand while ``_handling``. An
OPEN connection is not read from (``_reading`` is false) while one of the client's waits or is in hand: it cannot send faster than that.
The head that accepts may be held back (``_head``), to leave in one write with what follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import ClientDisconnected
from websockets.frames import Opcode

from gateway import metrics
from gateway.errors import ABNORMAL, INTERNAL_ERROR, NO_CODE, RESTART
from gateway.server.conversation import Conversation, Received
from gateway.server.frames import Violation
from gateway.server.responses import Field, accepting_response, refusing_response
from gateway.server.transport_writer import CLOSE_SECONDS, LINGER_SECONDS, TransportWriter
from gateway.transports.log_lines import about
from gateway.transports.writer import HIGH_BYTES, Message

if TYPE_CHECKING:
    from gateway.server.protocols import HttpProtocol

CONNECTING, OPEN, CLOSING, FAILED, CLOSED = range(5)

logger = logging.getLogger("gateway.edge")


def _ignore(message: Message) -> None:
    pass


class WebSocketProtocol(TransportWriter):
    """One connection. Its messages go to the ASGI application's ``receive``, or after ``detach`` to a callback."""

    __slots__ = (
        "_conversation", "_drained", "_handling", "_head", "_key", "_max_size", "_messages", "_on_message",
        "_reading", "_response", "_server", "_state", "_timer", "_waiter", "_waits_for_room",
    )  # fmt: skip

    def __init__(self, http: HttpProtocol) -> None:
        super().__init__(http.transport)
        self._server = http.site.state
        self._max_size = http.site.max_message_size
        self._state = CONNECTING
        self._key = b""
        self._head: bytes | None = None  # of the answer, while it is held back
        self._response: tuple[int, list[Field], bytes] | None = None  # with which the application refuses the upgrade
        self._messages: list[Message] = [{"type": "websocket.connect"}]
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None  # while the transport is full
        self._on_message: Callable[[Message], None] | None = None
        self._handling = False
        self._waits_for_room = False  # the next message is taken only when the transport has room again
        self._reading = True
        self._conversation: Conversation | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, app: Callable[..., Any], scope: Message, key: bytes) -> None:
        """Call the application, which accepts or refuses the upgrade.

        Args:
            app: of ASGI
            scope: of the upgrade
            key: the value of ``Sec-WebSocket-Key``
        """
        self._key = key
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn only calls its shutdown
        task = asyncio.get_running_loop().create_task(self._run(app, scope))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    # Called by the application

    async def _run(self, app: Callable[..., Any], scope: Message) -> None:
        try:
            await app(scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            logger.exception("a WebSocket failed")
            self._give_up()
        if self._state == CONNECTING and not self.transport.is_closing():
            logger.error("the application has returned without an answer to an upgrade")
            self._give_up()
        if self._on_message is None and self._timer is None:
            self.transport.close()

    def _give_up(self) -> None:
        if self._state == CONNECTING:
            self._fail_upgrade()
        elif self._state == OPEN:
            self._close(INTERNAL_ERROR, "")

    async def receive(self) -> Message:
        """ASGI's receive."""
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.pop(0)
        if not self._messages:
            self._resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """ASGI's send.

        Raises:
            ClientDisconnected: if the client is gone.
        """
        while self._drained is not None:
            await asyncio.wait([self._drained])
        kind = message["type"]
        if self._state == CLOSED:
            raise ClientDisconnected
        if self._state == CONNECTING and kind == "websocket.accept":
            self._accept(message)
        elif self._state == CONNECTING and kind == "websocket.close":
            self._refuse(403, [], b"")
        elif self._state == CONNECTING and kind == "websocket.http.response.start" and self._response is None:
            self._response = (message["status"], list(message.get("headers", [])), b"")
        elif self._response is not None and kind == "websocket.http.response.body":
            status, fields, body = self._response
            self._response = status, fields, body + message.get("body", b"")
            if not message.get("more_body"):
                self._refuse(*self._response)
        elif self._state == OPEN and kind == "websocket.send":
            self._send(message)
        elif self._state == OPEN and kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif self._state in (CLOSING, FAILED) and kind == "websocket.close":
            pass  # it is being closed already, for another reason
        else:
            raise RuntimeError(f"ASGI message {kind!r} has no place here")

    def hold_head(self) -> None:
        """Do not send the head of the answer when the application accepts, but leave it to ``take_head``."""
        self._head = b""

    def take_head(self) -> bytes:
        """The head that was held back, which the caller must write before anything else; empty if there is none."""
        head, self._head = self._head or b"", None
        return head

    def detach(self, on_message: Callable[[Message], None]) -> bool:
        """Let the connection outlive the application's call; ``False`` if the client is gone already.

        Args:
            on_message: called with one message at a time; the next one comes only after ``message_done``
        """
        if self.gone:
            return False
        self._on_message = on_message
        self._deliver()
        return True

    def message_done(self) -> None:
        """The message has been handled. The next one is taken only once the client has taken the answers to those before."""
        self._waits_for_room = self._drained is not None
        if self._waits_for_room:
            return
        self._handling = False
        self._deliver()
        if not self._handling:
            self._resume_reading()

    # To the client

    def _accept(self, message: Message) -> None:
        fields = list(message.get("headers", ()))
        if message.get("subprotocol"):
            fields.append((b"Sec-WebSocket-Protocol", message["subprotocol"].encode()))
        self._state = OPEN
        head = accepting_response(self._key, self._server.default_headers, fields)
        if self._head is None:
            self.write(head)
        else:
            self._head = head

    def _refuse(self, status: int, fields: Sequence[Field], body: bytes) -> None:
        self._state = CLOSED
        self.write(refusing_response(status, self._server.default_headers, fields, body))
        self.transport.close()

    def _fail_upgrade(self) -> None:
        self._refuse(500, [], b"Internal Server Error")

    def _send(self, message: Message) -> None:
        data, conversation = message.get("bytes"), self._open_conversation()
        self.write(conversation.text(message["text"]) if data is None else conversation.binary(data))

    def _close(self, code: int, reason: str) -> None:
        self._end(CLOSING, code, reason, self._open_conversation().close(code, reason))
        self._resume_reading()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.close)

    def _end(self, state: int, code: int, reason: str, goodbye: bytes) -> None:
        """Take the connection for ended: nothing may follow a close frame, on either side."""
        self._state = state
        if goodbye:
            self.write(self.take_head() + goodbye)
        self.leave()  # and watch from now on whether the client takes all of it
        if self._on_message is None:
            self._enqueue({"type": "websocket.disconnect", "code": code, "reason": reason})
        else:
            self._on_message = _ignore  # so that the object behind it can be freed
            self._messages.clear()

    # From the client

    def _open_conversation(self) -> Conversation:
        if self._conversation is None:
            self._conversation = Conversation(self._max_size, asyncio.get_running_loop().time())
        return self._conversation

    def data_received(self, data: bytes) -> None:
        if self._state in (FAILED, CLOSED):
            return
        if self._state == CONNECTING:
            self.transport.abort()  # a client must wait for the answer (RFC 6455, section 4.1)
            return
        try:
            for received in self._open_conversation().receive_data(data, asyncio.get_running_loop().time()):
                self._handle(received)
        except Violation as violation:
            self._fail(violation)

    def _handle(self, received: Received) -> None:
        if received.kind is Opcode.PING:
            if self.transport.get_write_buffer_size() <= HIGH_BYTES:  # a client that takes no bytes needs no pong
                self.write(received.answer)
        elif received.kind is Opcode.CLOSE:
            if self._state == OPEN:
                self._end(CLOSED, received.code, str(received.data), received.answer)
            self.transport.close()
        elif self._state == OPEN:
            self._enqueue({"type": "websocket.receive", "text" if received.kind is Opcode.TEXT else "bytes": received.data})
            if self._reading and (self._on_message is None or self._handling):
                self._reading = False
                self.transport.pause_reading()

    def _fail(self, violation: Violation) -> None:
        """Give the client up. The socket stays open for a moment, because closing it with unread bytes would reset it."""
        if self._state == OPEN:  # else it has been ended for another reason, and that was reported
            self._report(violation)
        self._end(FAILED, violation.code, violation.reason, self._open_conversation().fail(violation))
        self.transport.write_eof()
        self._resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    def _report(self, violation: Violation) -> None:
        """Count and log that a client is given up, of which the application hears only that the client is gone."""
        metrics.ended(violation.code)
        peer = self.transport.get_extra_info("peername")
        extra = about(transport="websocket", address=peer[0] if isinstance(peer, tuple) else "")
        logger.info("ended with %d: %s", violation.code, violation.reason, extra=extra | {"kind": str(violation.code)})

    # From the connection to the application

    def _enqueue(self, message: Message) -> None:
        self._messages.append(message)
        self._deliver()

    def _deliver(self) -> None:
        if self._on_message is not None:
            if self._messages and not self._handling:
                self._handling = True
                self._on_message(self._messages.pop(0))
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # Called by the transport and the server

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._set_drained()
        super().resume_writing()
        if self._waits_for_room:
            self.message_done()

    def _set_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if not self.gone:
            self._end(CLOSED, ABNORMAL if self._state == CONNECTING else NO_CODE, "", b"")
        self._state = CLOSED
        super().connection_lost(exc)
        self._set_drained()
        if self._timer is not None:
            self._timer.cancel()
        self._conversation = None

    def shutdown(self) -> None:
        """Send the client away, because uvicorn stops."""
        if self._state == CONNECTING:
            self._fail_upgrade()
        elif self._state == OPEN:
            self._close(RESTART, "")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.transport.close()
