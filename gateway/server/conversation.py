"""Conversation: turns the bytes of an open WebSocket into messages, and messages into bytes (RFC 6455, section 5), without I/O.

The websockets library parses and builds the frames. Its protocol object is made only when the first frame comes that is not a pong,
which for most clients is never: they only listen, and their pongs are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from gateway.errors import INVALID_DATA
from gateway.server.frames import FrameCounter, Violation, is_pong


class Received(NamedTuple):
    """A message, a ping or a close that came from a client.

    Attributes:
        kind: ``TEXT``, ``BINARY``, ``PING`` or ``CLOSE``
        data: the text, the binary data, or the reason of a close
        answer: the bytes of the frame that a ping or a close must be answered with
        code: of a close
    """

    kind: Opcode
    data: str | bytes
    answer: bytes = b""
    code: int = 0


class Conversation:
    """The state of one WebSocket.

    Args:
        max_size: the largest number of bytes in a message; ``None`` for any
        now: the event loop's time
    """

    __slots__ = ("_counter", "_kind", "_max_size", "_parser", "_parts")

    def __init__(self, max_size: int | None, now: float) -> None:
        self._max_size = max_size
        self._counter = FrameCounter(now)
        self._parser: Protocol | None = None
        self._kind = Opcode.TEXT
        self._parts: list[bytes] = []  # the fragments of a message that is not whole yet

    @property
    def parser(self) -> Protocol:
        """The protocol object of websockets."""
        if self._parser is None:
            self._parser = Protocol(SERVER, max_size=self._max_size)  # without a logger: it would log frames, which may hold tokens
        return self._parser

    # From the client

    def receive_data(self, data: bytes, now: float) -> Iterator[Received]:
        """Take bytes from the client, and return what they complete.

        Args:
            data: the next bytes
            now: the event loop's time

        Raises:
            Violation: if the connection must be closed because of them.
        """
        self._counter.feed(data, now)
        if self._parser is None and is_pong(data):
            return
        parser = self.parser
        parser.receive_data(data)
        if parser.parser_exc is not None:
            closed = parser.close_sent  # by the parser itself, or by us before
            assert closed is not None
            raise Violation(closed.code, closed.reason)
        for frame in cast("list[Frame]", parser.events_received()):
            if frame.opcode is Opcode.PING:
                yield Received(Opcode.PING, b"", self._data_to_send())
            elif frame.opcode is Opcode.CLOSE:
                closed = parser.close_rcvd
                assert closed is not None
                yield Received(Opcode.CLOSE, closed.reason, self._data_to_send(), closed.code)
            elif frame.opcode is not Opcode.PONG and self._join(frame):
                yield self._message()

    def _join(self, frame: Frame) -> bool:
        if frame.opcode is not Opcode.CONT:
            self._kind, self._parts = frame.opcode, []
        self._parts.append(bytes(frame.data))
        return frame.fin

    def _message(self) -> Received:
        data, self._parts = b"".join(self._parts), []
        if self._kind is Opcode.BINARY:
            return Received(Opcode.BINARY, data)
        try:
            return Received(Opcode.TEXT, data.decode())
        except UnicodeDecodeError:
            raise Violation(INVALID_DATA, "text that is not UTF-8") from None

    # To the client

    def text(self, text: str) -> bytes:
        """The bytes of a text message.

        Raises:
            websockets.exceptions.InvalidState: if one side has sent a close frame.
        """
        self.parser.send_text(text.encode())
        return self._data_to_send()

    def binary(self, data: bytes) -> bytes:
        """The bytes of a binary message; raises as ``text``."""
        self.parser.send_binary(data)
        return self._data_to_send()

    def close(self, code: int, reason: str) -> bytes:
        """The bytes of a close frame; raises as ``text``."""
        self.parser.send_close(code, reason)
        return self._data_to_send()

    def fail(self, violation: Violation) -> bytes:
        """The bytes of the close frame that answers a violation; empty if one was sent already."""
        if self.parser.parser_exc is None:
            self.parser.fail(violation.code, violation.reason)
        return self._data_to_send()

    def _data_to_send(self) -> bytes:
        return b"".join(self.parser.data_to_send())
