"""Frames: checks a client's WebSocket frames before they are parsed, without I/O.

The websockets library checks masking, opcodes, reserved bits and sizes. But it accepts lengths in a longer form than needed, and any
number of frames: one read of 256 KiB from a socket can be 43,000 empty pings, each of which wants an answer. So the frames' headers are
read first, and all frames (messages, fragments, pings and pongs) are counted against a rate limit.
"""

from __future__ import annotations

from typing import Final

from gateway.core.rate_limit import RateLimit
from gateway.errors import PROTOCOL_ERROR, TooMany

FRAMES_AT_ONCE: Final = 600  # 300 commands and as many fragments, pings and pongs
FRAMES_PER_SECOND: Final = 40.0  # 20 commands and as many fragments, pings and pongs


class Violation(Exception):
    """The client broke a rule, so the connection must be closed with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameCounter:
    """Follows the bytes of one connection from frame header to frame header (RFC 6455, section 5.2)."""

    __slots__ = ("_header", "_rate", "_skip")

    def __init__(self, now: float) -> None:
        self._rate = RateLimit(now, "frames", FRAMES_AT_ONCE, FRAMES_PER_SECOND)
        self._header = b""  # the part that has come of an incomplete header
        self._skip = 0  # bytes of mask and payload up to the next header

    def feed(self, data: bytes, now: float) -> None:
        """Take the next bytes.

        Args:
            data: as they came
            now: the event loop's time

        Raises:
            Violation: if there are more frames than allowed, or if the length of one is not in its shortest form.
        """
        position = 0
        if self._header:
            data, self._header = self._header + data, b""
        end = len(data)
        while True:
            if self._skip >= end - position:
                self._skip -= end - position
                return
            position += self._skip
            self._skip = 0
            size = self._frame(data[position : position + 10], now)
            if size is None:
                self._header = data[position:]
                return
            position += size

    def _frame(self, head: bytes, now: float) -> int | None:
        """Count a frame, and note how much of it is to be skipped.

        Returns:
            the size of its header up to the length; ``None`` if the header is incomplete
        """
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        size = 2 if length < 126 else 4 if length == 126 else 10
        if len(head) < size:
            return None
        if size > 2:
            length = int.from_bytes(head[2:size], "big")
            if length < 126 or (size == 10 and length < 65_536):
                raise Violation(PROTOCOL_ERROR, "a length that is not in its shortest form")
        try:
            self._rate.take(now)
        except TooMany as error:
            raise Violation(error.close_code, error.detail) from None
        self._skip = length + (4 if head[1] & 0x80 else 0)
        return size


def is_pong(data: bytes) -> bool:
    """Whether these bytes are exactly one pong from a client (RFC 6455, section 5.5.3)."""
    return len(data) >= 6 and data[0] == 0x8A and data[1] >= 0x80 and len(data) == data[1] - 0x80 + 6 <= 131
