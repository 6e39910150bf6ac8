"""Frames: what a client's WebSocket frames must be like before they are parsed. Decides only, no I/O.

websockets checks masking, opcodes, reserved bits and sizes. It accepts lengths in a longer form than needed, and any number of
frames: 256 KiB of empty pings, one read from a socket, are 43,000 frames and as many answers. So the frames are counted by their
headers first, in a bucket that fills again with time: pings, fragments and messages alike.
"""

from __future__ import annotations

from typing import Final

from gateway.core.rate_limit import RateLimit
from gateway.errors import TooMany

FRAMES_AT_ONCE: Final = 600  # 300 commands and as many fragments, pings and pongs
FRAMES_PER_SECOND: Final = 40.0  # 20 commands, and as many again

PROTOCOL_ERROR: Final = 1002
TOO_MANY: Final = 1008


class Violation(Exception):
    """The client must go, with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameCounter:
    """Reads along over one connection's bytes, frame header by frame header (RFC 6455, section 5.2)."""

    __slots__ = ("_header", "_rate", "_skip")

    def __init__(self, now: float) -> None:
        self._rate = RateLimit(now, "frames", FRAMES_AT_ONCE, FRAMES_PER_SECOND)
        self._header = b""  # of a frame whose header has not come whole
        self._skip = 0  # bytes of payload still to come

    def feed(self, data: bytes, now: float) -> None:
        """
        Raises:
            Violation: if there are more frames than allowed, or one whose length is not in the shortest form.
        """
        position = 0
        if self._header:
            data, self._header = self._header + data, b""
        end = len(data)
        while True:
            if self._skip > end - position:
                self._skip -= end - position
                return
            position += self._skip
            self._skip = 0
            if position == end:
                return
            size = self._frame(data[position : position + 14], now)
            if size is None:
                self._header = data[position:]
                return
            position += size

    def _frame(self, head: bytes, now: float) -> int | None:
        """The size of the header that begins here, its payload to be skipped; ``None`` if it is not whole."""
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
            raise Violation(TOO_MANY, error.detail) from None
        self._skip = length + (4 if head[1] & 0x80 else 0)
        return size


def is_pong(data: bytes) -> bool:
    """Whether this is one whole pong from a client and nothing else (RFC 6455, section 5.5.3)."""
    return len(data) >= 6 and data[0] == 0x8A and data[1] >= 0x80 and len(data) == data[1] - 0x80 + 6 <= 131
