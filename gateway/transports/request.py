"""Request: parses what a request asks for, which is the same for all transports: channels, cursors, and when it ends."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gateway.core.event import CURSOR_RULE, Malformed, channel_problem, parse_cursor, show
from gateway.core.grant import Grant
from gateway.core.page import Since
from gateway.errors import BadRequest, Forbidden
from gateway.transports.writer import Receive, Send

Scope = Mapping[str, Any]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

DEFAULT_WAIT: Final = 25.0  # seconds that a poll waits if its request does not say
MAX_WAIT: Final = 60.0

_WAIT: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_PREFER_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\s,;\"]+)", re.IGNORECASE)


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request header; the last one if there are several, ``None`` if there is none."""
    value: bytes | None = dict(scope["headers"]).get(name)
    return None if value is None else value.decode("latin-1")


def headers(scope: Scope, name: bytes) -> list[str]:
    """All values of a request header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def query(scope: Scope) -> list[tuple[str, str]]:
    """The names and values of the query string.

    Raises:
        BadRequest: if it is not UTF-8.
    """
    pairs = []
    text: bytes = scope["query_string"]
    unquote = _unquote if b"%" in text or b"+" in text else bytes.decode
    for part in text.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            try:
                pairs.append((unquote(name), unquote(value)))
            except UnicodeDecodeError:
                # Not the value: it may be a token.
                raise BadRequest(f"query {show(name[:60])}: UTF-8 in percent-encoding is expected") from None
    return pairs


def _unquote(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode()


def parse_since(text: str, channel: str | None = None) -> Since:
    """Parse a cursor, ``last`` or ``now``.

    Raises:
        BadRequest: if the text is none of these; it names the channel, if it is the cursor of one.
    """
    if text == "last":
        return "last"
    if text == "now":
        return "now"
    try:
        return parse_cursor(text)
    except Malformed:
        whose = "" if channel is None else f"channel {show(channel)}: "
        raise BadRequest(f"{whose}cursor {show(text)}: {CURSOR_RULE}, or last, or now", channel=channel) from None


@dataclass(slots=True)
class StreamRequest:
    """What the request for a stream or a poll asks for.

    Attributes:
        channels: where to begin on each channel
        until_final: whether to end when all channels are over
        resumed: whether the client has brought a cursor, and so was connected before
    """

    channels: dict[str, Since]
    until_final: bool
    resumed: bool


def parse_request(scope: Scope, max_channels: int, *, required: bool = False) -> StreamRequest:
    """Parse ``channel=``, ``since=``, ``until=`` and the last event's id (docs/protocol.md).

    Args:
        scope: of ASGI
        max_channels: how many may be asked for
        required: whether there must be at least one channel

    Raises:
        BadRequest: if a value is wrong; the error names it.
    """
    since: Since = "last"
    last_id: int | None = None
    until_final = False
    resumed = False
    asked: list[tuple[str, Since | None]] = []
    for name, value in query(scope):
        match name:
            case "channel":
                asked.append(_channel(value))
            case "since":
                since = parse_since(value)
            case "until":
                if value != "final":
                    raise BadRequest(f"until {show(value)}: final is expected")
                until_final = True
            case "lastEventId" | "last_event_id":
                last_id = _last_id(value)
    if sent := header(scope, b"last-event-id"):
        last_id = _last_id(sent)
    channels: dict[str, Since] = {}
    for name, cursor in asked:
        resumed |= isinstance(cursor, int)
        begin = _later(last_id, cursor) if last_id is not None else since if cursor is None else cursor
        if channels.setdefault(name, begin) != begin:
            raise BadRequest(f"channel {show(name)}: asked for twice, with different cursors")
    check_number(channels, max_channels)
    if required and not channels:
        raise BadRequest("no channel: channel=<name> is expected, once for each")
    return StreamRequest(channels, until_final, last_id is not None or resumed)


def _channel(value: str) -> tuple[str, Since | None]:
    name, comma, cursor = value.partition(",")
    check_channel(name)
    return name, parse_since(cursor, name) if comma else None


def _last_id(value: str) -> int | None:
    if not value:
        return None  # a browser that has received no id yet may send it empty
    try:
        return parse_cursor(value)
    except Malformed as error:
        raise BadRequest(f"last event id: {error}") from None


def _later(last_id: int, cursor: Since | None) -> int:
    # An EventSource reconnects with its first URL, so the last id is usually newer than the cursor in it. But it may be the id of an
    # event on another channel, and then it can be the older one.
    return max(last_id, cursor) if isinstance(cursor, int) else last_id


def check_channel(name: str) -> None:
    """Check the name of a channel.

    Raises:
        BadRequest: if it is not allowed.
    """
    if (problem := channel_problem(name)) is not None:
        raise BadRequest(problem, channel=name)


def check_number(names: Collection[str], most: int) -> None:
    """Check how many channels one client wants to follow.

    Raises:
        BadRequest: if there are more than ``most``, naming the first one that is too many: a client can do without it and ask again.
    """
    if len(names) > most:
        surplus = next(islice(names, most, None))
        channel = surplus if channel_problem(surplus) is None else None
        raise BadRequest(f"{len(names)} channels: at most {most} are allowed for one connection", channel=channel)


def check_readable(grant: Grant, names: Iterable[str]) -> None:
    """Check that the grant allows to read all of these channels.

    Raises:
        Forbidden: naming the first channel that it does not allow. The answer is the same whether or not that exists.
    """
    for name in names:
        if not grant.may_read(name):
            raise Forbidden(f"channel {show(name)}: the token does not allow it", channel=name)


def wait_seconds(scope: Scope) -> float:
    """How many seconds a poll may wait: ``wait=`` in the URL or in ``Prefer`` (RFC 7240, section 4.3), but at most ``MAX_WAIT``.

    Raises:
        BadRequest: if ``wait=`` in the URL is not a number of seconds.
    """
    for name, value in query(scope):
        if name == "wait":
            if not _WAIT.fullmatch(value):
                raise BadRequest(f"wait {show(value)}: seconds from 0 to {MAX_WAIT:.0f} are expected")
            return min(float(value), MAX_WAIT)
    found = _PREFER_WAIT.search(",".join(headers(scope, b"prefer")))  # several are one list, and the first counts (RFC 7240, section 2)
    # A preference that is not understood is ignored (RFC 7240, section 2).
    return min(float(found[1]), MAX_WAIT) if found and _WAIT.fullmatch(found[1]) else DEFAULT_WAIT
