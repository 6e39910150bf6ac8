"""Event: its names, how it is read from Redis, and its encodings, each made once.

What a publisher may send is in ``Published``. What a client receives is that, plus ``channel`` and ``id``, which only the
gateway writes. ``data`` is carried through as the bytes that came.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

CHANNEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")
MAX_TYPE: Final = 64
TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
CURSOR: Final = re.compile(r"[0-9]{1,16}")
MAX_CURSOR: Final = 2**53  # what every language's number holds, publish.lua's among them: the year 2255
MAX_EVENT_BYTES: Final = 65_536

CHANNEL_RULE: Final = "only letters, digits and _ . : @ - are allowed, at most 128, the first a letter or digit"
TYPE_RULE: Final = "only letters, digits and _ . - are allowed, at most 64, the first a letter or digit"
CURSOR_RULE: Final = "the id of an event is expected, decimal digits and at most 2^53"

MAX_DIGITS: Final = 16  # of an id

_ENTRY: Final = re.compile(rb"([0-9]{16}) ([0-9]{1,16})(?:[^0-9\n][^\n]*)?\n")


class Malformed(ValueError):
    """Bytes that are no event. The text says why, and is safe to log."""


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """An event as its publisher wrote it."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    final: bool = False


_published: Final = msgspec.json.Decoder(Published)
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything: Final = msgspec.json.Decoder(msgspec.Raw)
_text: Final = msgspec.json.Decoder(str)
_flag: Final = msgspec.json.Decoder(bool)


def show(value: object, limit: int = 80) -> str:
    """A stranger's value for an error or a log line: quoted, escaped, one line, not long."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def channel_problem(name: str) -> str | None:
    """Why this is no channel name; ``None`` if it is one."""
    return None if CHANNEL.fullmatch(name) else f"channel {show(name, 40)}: {CHANNEL_RULE}"


def parse_cursor(text: str) -> int:
    """The cursor as a number.

    Raises:
        Malformed: if it is not decimal, or beyond what an id can be.
    """
    if not CURSOR.fullmatch(text) or int(text) > MAX_CURSOR:
        raise Malformed(f"cursor {show(text)}: {CURSOR_RULE}")
    return int(text)


def read_published(json: bytes, limit: int = MAX_EVENT_BYTES) -> Published:
    """Take a publisher's JSON for an event, or for the data of one of type ``message`` (docs/protocol.md, Events).

    Raises:
        Malformed: if it is no JSON (RFC 8259, UTF-8), too long, too deep, or an event with a wrong type or final.
    """
    if len(json) > limit:
        raise Malformed(f"it has {len(json)} bytes of JSON, at most {limit} are allowed")
    try:
        json.isascii() or json.decode()
        try:
            published = _published.decode(json)
        except msgspec.ValidationError:
            published = _read_other(json)
    except UnicodeDecodeError as error:
        raise Malformed(f"it is not UTF-8: byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise Malformed(f"it is not JSON: {error}") from None
    except RecursionError:
        raise Malformed("it is nested too deeply, 256 levels are allowed") from None
    if len(published.type) > MAX_TYPE or not _is_type(published.type):
        raise Malformed(f"type {show(published.type)}: {TYPE_RULE}")
    return published


@lru_cache(1_024)
def _is_type(text: str) -> bool:
    # Remembered, if it is not long: a regular expression costs little, but as much as all else that is done to a short event.
    return TYPE.fullmatch(text) is not None


def _read_other(json: bytes) -> Published:
    """JSON that is not of an event's plain form: an event with doubled keys, a wrong one, or just data."""
    try:
        fields = _fields.decode(json)
    except msgspec.ValidationError:
        fields = {}
    if not fields.keys() <= {"type", "data", "final"} or not bytes(fields.get("type", b"")).startswith(b'"'):
        return Published("message", _anything.decode(json))
    try:
        final = _flag.decode(fields.get("final", b"false"))
    except msgspec.ValidationError:
        raise Malformed(f"final {show(bytes(fields['final']).decode())}: true or false is expected") from None
    return Published(_text.decode(fields["type"]), fields.get("data", msgspec.Raw(b"null")), final)


class Event:
    """One event on its way to many clients.

    Attributes:
        channel: its name
        id: the publish time in microseconds, 0 for a live-only event
        before: the id that precedes it on its channel: an announcement's predecessor, or a log entry's. 0 for none
        final: whether the job is over
        json: the object that clients receive
    """

    __slots__ = ("_encoded", "before", "channel", "final", "id", "json")

    def __init__(self, channel: str, id: int, before: int, published: Published) -> None:
        self.channel = channel
        self.id = id
        self.before = before
        self.final = published.final
        # Joined, not formatted, which takes three times as long.
        self.json = b"".join(
            (
                b'{"type":"',
                published.type.encode(),
                b'","data":',
                published.data,
                b',"final":true,"channel":"' if published.final else b',"channel":"',
                channel.encode(),
                b'","id":"%d"}' % id if id else b'"}',
            )
        )
        self._encoded: dict[Wire, bytes] = {}

    def encode(self, wire: Wire) -> bytes:
        """The event's bytes on this wire: made on first use, the same object for every client after that."""
        data = self._encoded.get(wire)
        if data is None:
            data = self._encoded[wire] = wire.event(self)
        return data

    def __repr__(self) -> str:
        return f"<Event {self.channel} {self.id}>"


def read_announcement(channel: str, payload: bytes, limit: int = MAX_EVENT_BYTES) -> Event:
    """An event from pub/sub: ``<id> <prev>``, a newline and the JSON; without that first line it is live-only.

    Raises:
        Malformed: as ``read_published``.
    """
    # Taken apart without a regular expression, which costs three times as much: this runs for each event.
    head, line_feed, json = payload.partition(b"\n")
    id, _, before = head.partition(b" ")
    if line_feed and id.isdigit() and before.isdigit() and len(id) <= MAX_DIGITS and len(before) <= MAX_DIGITS:
        return Event(channel, int(id), int(before), read_published(json, limit))
    return Event(channel, 0, 0, read_published(payload, limit))


def read_place(entry: bytes) -> tuple[int, int, int]:
    """A log entry's id, the id before it, and where its JSON begins.

    The first line is ``<id> <before>``, and perhaps a label; ``<before>`` is 0 for none, and without its first digits where
    ``<id>`` has the same.

    Raises:
        Malformed: if the first line is not of that form.
    """
    head = _ENTRY.match(entry)
    if head is None:
        raise Malformed(f"a log entry begins with its id and the one before: {show(entry[:60])}")
    id, before = head[1], head[2]
    return int(id), 0 if before == b"0" else int(id[: -len(before)] + before), head.end()


def read_entry(channel: str, entry: bytes, limit: int = MAX_EVENT_BYTES) -> Event:
    """An event from the log.

    Raises:
        Malformed: as ``read_place`` and ``read_published``.
    """
    id, before, end = read_place(entry)
    return Event(channel, id, before, read_published(entry[end:], limit))


class Wire:
    """A wire form: how an event and a notice become bytes for one kind of connection.

    Args:
        whole: whether each of them has to stay by itself, as its end is not in the bytes

    Attributes:
        event: makes an event's bytes
        notice: makes those of a notice, from its name, its JSON and the id that tells an SSE client where it stands, or 0
    """

    def __init__(
        self, name: str, event: Callable[[Event], bytes], notice: Callable[[str, bytes, int], bytes], *, whole: bool = False
    ) -> None:
        self.name = name
        self.event = event
        self.notice = notice
        self._whole = whole

    def join(self, parts: list[bytes]) -> list[bytes]:
        """The same for as few writes as possible."""
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
    # Line breaks in valid JSON are white space between tokens; in SSE they would end the field.
    json = event.json.replace(b"\r", b" ").replace(b"\n", b" ")
    return (b"id: %d\ndata: " % event.id if event.id else b"data: "), json, b"\n\n"


def _block(event: Event) -> bytes:
    return b"".join(_block_parts(event))


def _chunk(event: Event) -> bytes:
    # Put together once, not first the block and then the chunk: an event to one client costs 1.5 us less.
    begin, json, end = _block_parts(event)
    return b"".join((b"%x\r\n" % (len(begin) + len(json) + len(end)), begin, json, end, b"\r\n"))


def _notice_block(name: str, json: bytes, id: int) -> bytes:
    return b"%bevent: %b\ndata: %b\n\n" % (b"id: %d\n" % id if id else b"", name.encode(), json)


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked HTTP body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


TEXT: Final = Wire("text", lambda event: event.json, lambda _name, json, _id: json, whole=True)
ITEM: Final = Wire("item", lambda event: event.json, lambda _name, json, _id: json, whole=True)
FRAME: Final = Wire("frame", lambda event: text_frame(event.json), lambda _name, json, _id: text_frame(json))
BLOCK: Final = Wire("block", _block, _notice_block)
CHUNK: Final = Wire("chunk", _chunk, lambda *notice: http_chunk(_notice_block(*notice)))
