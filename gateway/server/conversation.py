"""Conversation: the frames of an open WebSocket, both ways, as messages (RFC 6455, section 5). Decides only, no I/O.

Parsed and built by websockets, whose protocol object is made when the first frame comes that is no pong. That never happens to most
clients, who only listen: their pongs are looked at and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from gateway.server.frames import FrameCounter, Violation, is_pong

INVALID_DATA: Final = 1007
ABNORMAL: Final = 1006


class Said(NamedTuple):
    """One thing that a client has said.

    Attributes:
        kind: a text, binary data, a ping, or that it closes
        data: the text, the data, or the reason
        answer: frames that are due for it, if it is a ping or closes
        code: with which it closes
    """

    kind: Opcode
    data: str | bytes
    answer: bytes = b""
    code: int = 0


class Conversation:
    """What is said on one WebSocket.

    Args:
        max_size: bytes of a message
        now: the loop's time
    """

    __slots__ = ("_counter", "_kind", "_max_size", "_parser", "_parts")

    def __init__(self, max_size: int | None, now: float) -> None:
        self._max_size = max_size
        self._counter = FrameCounter(now)
        self._parser: Protocol | None = None
        self._kind = Opcode.TEXT
        self._parts: list[bytes] = []  # of a message in fragments

    @property
    def parser(self) -> Protocol:
        """That of websockets."""
        if self._parser is None:
            self._parser = Protocol(SERVER, max_size=self._max_size)  # with no logger of ours: it would show frames, and tokens in them
        return self._parser

    # What the client says

    def hear(self, data: bytes, now: float) -> Iterator[Said]:
        """What these bytes say, together with those before them.

        Raises:
            Violation: if the client must go for it.
        """
        self._counter.feed(data, now)
        if self._parser is None and is_pong(data):
            return
        parser = self.parser
        parser.receive_data(data)
        if parser.parser_exc is not None:
            closed = parser.close_sent
            raise Violation(closed.code if closed else ABNORMAL, closed.reason if closed else "")
        for frame in cast("list[Frame]", parser.events_received()):
            if frame.opcode is Opcode.PING:
                yield Said(Opcode.PING, b"", self._due())
            elif frame.opcode is Opcode.CLOSE:
                closed = parser.close_rcvd
                assert closed is not None
                yield Said(Opcode.CLOSE, closed.reason, self._due(), closed.code)
            elif frame.opcode is not Opcode.PONG and self._join(frame):
                yield self._message()

    def _join(self, frame: Frame) -> bool:
        if frame.opcode is not Opcode.CONT:
            self._kind, self._parts = frame.opcode, []
        self._parts.append(bytes(frame.data))
        return frame.fin

    def _message(self) -> Said:
        data, self._parts = b"".join(self._parts), []
        if self._kind is Opcode.BINARY:
            return Said(Opcode.BINARY, data)
        try:
            return Said(Opcode.TEXT, data.decode())
        except UnicodeDecodeError:
            raise Violation(INVALID_DATA, "text that is not UTF-8") from None

    # What is said to it

    def text(self, text: str) -> bytes:
        """The frames of a text.

        Raises:
            websockets.exceptions.InvalidState: if one side has closed.
        """
        self.parser.send_text(text.encode())
        return self._due()

    def binary(self, data: bytes) -> bytes:
        """The frames of binary data; raises as ``text``."""
        self.parser.send_binary(data)
        return self._due()

    def close(self, code: int, reason: str) -> bytes:
        """The frame with which this side closes; raises as ``text``."""
        self.parser.send_close(code, reason)
        return self._due()

    def fail(self, violation: Violation) -> bytes:
        """The frame with which this side gives the client up, if there is a place for it."""
        if self.parser.parser_exc is None:
            self.parser.fail(violation.code, violation.reason)
        return self._due()

    def _due(self) -> bytes:
        return b"".join(self.parser.data_to_send())
