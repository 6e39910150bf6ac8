"""Event: the rules for its names, how it is parsed, and the JSON that clients receive.

``Published`` is what a publisher may send. A client receives that plus ``channel`` and ``id``, which only the gateway writes.
``data`` is never decoded: its bytes are passed through as they came.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from gateway.core.wire import Wire

CHANNEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")
MAX_TYPE: Final = 64
TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
CURSOR: Final = re.compile(r"[0-9]{1,16}")
MAX_CURSOR: Final = 2**53  # the largest integer that a double holds exactly, as in Lua and JavaScript; reached in the year 2255
MAX_EVENT_BYTES: Final = 65_536
MAX_LEVELS: Final = 256  # of arrays and objects in an event's JSON, as in publish.lua

CHANNEL_RULE: Final = "only letters, digits and _ . : @ - are allowed, at most 128, the first a letter or digit"
TYPE_RULE: Final = "only letters, digits and _ . - are allowed, at most 64, the first a letter or digit"
CURSOR_RULE: Final = "the id of an event is expected, decimal digits and at most 2^53"

MAX_DIGITS: Final = 16  # in an id

_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{}]"))

_ENTRY: Final = re.compile(rb"([0-9]{16}) ([0-9]{1,16})(?:[^0-9\n][^\n]*)?\n")


class Malformed(ValueError):
    """Bytes that are not an event. The text says why, and is safe to log."""


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
    """An untrusted value as text for an error or a log line: quoted, escaped, on one line, and not longer than ``limit``.

    What it is in Python does not show: bytes look like text, and the words of JSON are JSON's.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value.decode("latin-1") if isinstance(value, bytes) else value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def channel_problem(name: str) -> str | None:
    """Why this is not a channel's name; ``None`` if it is one."""
    return None if CHANNEL.fullmatch(name) else f"channel {show(name, 40)}: {CHANNEL_RULE}"


def parse_cursor(text: str) -> int:
    """The cursor as a number.

    Raises:
        Malformed: if it is not a decimal number up to ``MAX_CURSOR``.
    """
    if not CURSOR.fullmatch(text) or int(text) > MAX_CURSOR:
        raise Malformed(f"cursor {show(text)}: {CURSOR_RULE}")
    return int(text)


def parse_published(json: bytes, limit: int = MAX_EVENT_BYTES) -> Published:
    """Parse a publisher's JSON: either an event, or any other value, which becomes the data of a ``message`` (docs/protocol.md, Events).

    Args:
        json: the bytes as they came
        limit: the largest number of bytes allowed

    Raises:
        Malformed: if it is not JSON in UTF-8 (RFC 8259), too long, nested too deeply, or an event with a wrong ``type`` or ``final``.
    """
    published = _parse(json, limit)
    if _is_deep(json):
        raise _too_deep()
    return published


def _parse(json: bytes, limit: int) -> Published:
    """As ``parse_published``, for the JSON of a recorded event: how deep that is nested, publish.lua has checked."""
    if len(json) > limit:
        raise Malformed(f"it has {len(json)} bytes of JSON, at most {limit} are allowed")
    try:
        json.isascii() or json.decode()
        try:
            published = _published.decode(json)
        except msgspec.ValidationError:
            published = _parse_other(json)
    except UnicodeDecodeError as error:
        raise Malformed(f"it is not UTF-8: byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise Malformed(f"it is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if len(published.type) > MAX_TYPE or not _is_type(published.type):  # the length first, so that no long text gets into the cache
        raise Malformed(f"type {show(published.type)}: {TYPE_RULE}")
    return published


def _too_deep() -> Malformed:
    return Malformed(f"it is nested too deeply, {MAX_LEVELS} levels are allowed")


def _is_deep(json: bytes) -> bool:
    """Whether valid JSON has more than ``MAX_LEVELS`` levels.

    The decoder does not tell: it stops at 1,000 levels in Python 3.11, at 10,000 in 3.13, and where the stack ends in 3.14.
    """
    if len(json) <= 2 * MAX_LEVELS or json.count(b"[") + json.count(b"{") <= MAX_LEVELS:
        return False
    without_strings = b"".join(json.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    level = 0
    for bracket in without_strings.translate(None, _NO_BRACKETS):
        level += 1 if bracket in b"[{" else -1
        if level > MAX_LEVELS:
            return True
    return False


@lru_cache(1_024)
def _is_type(text: str) -> bool:
    # Cached, because matching the regular expression would double the cost of parsing a short event.
    return TYPE.fullmatch(text) is not None


def _parse_other(json: bytes) -> Published:
    """Parse JSON that ``Published`` does not fit: mere data, an event with a mistake, or one with a key twice."""
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
        channel: the channel's name
        id: the publish time in microseconds since 1970; 0 for a live-only event
        before: the id that precedes this one on its channel, as the announcement or the log entry gives it; 0 for none
        final: whether it is the channel's last event: the job is over
        json: the object that clients receive
    """

    __slots__ = ("_encoded", "before", "channel", "final", "id", "json")

    def __init__(self, channel: str, id: int, before: int, published: Published) -> None:
        self.channel = channel
        self.id = id
        self.before = before
        self.final = published.final
        # Joined rather than formatted, which takes three times as long.
        self.json: bytes = b"".join(
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
        """The event's bytes in this wire format: made on first use, then the same object for every client."""
        data = self._encoded.get(wire)
        if data is None:
            data = self._encoded[wire] = wire.event(self)
        return data

    def __repr__(self) -> str:
        return f"<Event {self.channel} {self.id}>"


def parse_announcement(channel: str, payload: bytes, limit: int = MAX_EVENT_BYTES) -> Event:
    """Parse an event from pub/sub: ``<id> <prev>``, a newline and the JSON. Without that first line it is live-only.

    Raises:
        Malformed: as ``parse_published``.
    """
    # This runs for each event, and a regular expression would cost three times as much.
    head, line_feed, json = payload.partition(b"\n")
    id, _, before = head.partition(b" ")
    if line_feed and id.isdigit() and before.isdigit() and len(id) <= MAX_DIGITS and len(before) <= MAX_DIGITS:
        return Event(channel, int(id), int(before), _parse(json, limit))
    return Event(channel, 0, 0, parse_published(payload, limit))


def parse_entry_head(entry: bytes) -> tuple[int, int, int]:
    """A log entry's id, the id before it, and the offset of its JSON.

    The first line is ``<id> <before>`` and an optional label. ``<before>`` is 0 for none; otherwise the leading digits that it shares
    with ``<id>`` may be left out.

    Raises:
        Malformed: if the first line does not have that form.
    """
    head = _ENTRY.match(entry)
    if head is None:
        raise Malformed(f"a log entry begins with its id and the one before: {show(entry[:60])}")
    id, before = head[1], head[2]
    return int(id), 0 if before == b"0" else int(id[: -len(before)] + before), head.end()


def parse_entry(channel: str, entry: bytes, limit: int = MAX_EVENT_BYTES) -> Event:
    """Parse an entry of a channel's log.

    Raises:
        Malformed: as ``parse_entry_head`` and ``parse_published``.
    """
    id, before, end = parse_entry_head(entry)
    return Event(channel, id, before, _parse(entry[end:], limit))
