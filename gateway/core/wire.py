"""Wire: the formats in which events and notices leave the gateway, one for each kind of connection.

An event keeps its bytes in each format (``Event.encode``), so a format is applied once for all clients, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.core.event import Event


class Wire:
    """A wire format: how events and notices become bytes for one kind of connection.

    Args:
        name: for the metrics
        event: encodes an event
        notice: encodes a notice, given its name, its JSON and an id that SSE clients take as their cursor (0 for none)
        whole: whether messages must not be joined, because their bytes do not show where one ends
    """

    def __init__(
        self, name: str, event: Callable[[Event], bytes], notice: Callable[[str, bytes, int], bytes], *, whole: bool = False
    ) -> None:
        self.name = name
        self.event = event
        self.notice = notice
        self._whole = whole

    def join(self, parts: list[bytes]) -> list[bytes]:
        """The same bytes in as few parts as possible, so that they take few writes."""
        return parts if self._whole or len(parts) < 2 else [b"".join(parts)]

    def __repr__(self) -> str:
        return f"<Wire {self.name}>"


def text_frame(payload: bytes) -> bytes:
    """An unmasked, unfragmented WebSocket text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def _block_parts(event: Event) -> tuple[bytes, bytes, bytes]:
    # A line break in valid JSON is white space between tokens, but in SSE it would end the field.
    json = event.json.replace(b"\r", b" ").replace(b"\n", b" ")
    return (b"id: %d\ndata: " % event.id if event.id else b"data: "), json, b"\n\n"


def _block(event: Event) -> bytes:
    return b"".join(_block_parts(event))


def _chunk(event: Event) -> bytes:
    # Joined in one step rather than as a block and then a chunk, which saves 1.5 us where an event goes to one client.
    begin, json, end = _block_parts(event)
    return b"".join((b"%x\r\n" % (len(begin) + len(json) + len(end)), begin, json, end, b"\r\n"))


def _notice_block(name: str, json: bytes, id: int) -> bytes:
    return b"%bevent: %b\ndata: %b\n\n" % (b"id: %d\n" % id if id else b"", name.encode(), json)


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked HTTP body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


# Under a foreign ASGI server, which does the framing itself, a WebSocket takes TEXT and an event stream takes BLOCK.
TEXT: Final = Wire("text", lambda event: event.json, lambda _name, json, _id: json, whole=True)
FRAME: Final = Wire("frame", lambda event: text_frame(event.json), lambda _name, json, _id: text_frame(json))
BLOCK: Final = Wire("block", _block, _notice_block)
CHUNK: Final = Wire("chunk", _chunk, lambda *notice: http_chunk(_notice_block(*notice)))
ELEMENT: Final = Wire("element", lambda event: event.json, lambda _name, json, _id: json, whole=True)  # of the array in a poll's answer
