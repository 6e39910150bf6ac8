"""Responses: encodes the heads of responses, and whole responses of the server's own, without I/O.

The head of an application's response is checked once and then cached. uvicorn matches each name and each value of every response against
a regular expression, which takes 12 us for a stream's head.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha1
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from gateway.errors import GatewayError, UpgradeRequired
from gateway.server.heads import WEBSOCKET_VERSION

Field = tuple[bytes, bytes]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_ACCEPT: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n%b%b\r\n"

# Names are tokens, and values hold no control characters (RFC 9110, sections 5.1 and 5.5).
_LINES: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")


def lines(fields: Iterable[Field]) -> bytes:
    """Header fields as bytes."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class DefaultFields:
    """The header fields of every response, encoded again only when they change: uvicorn makes a new list of them once a second."""

    _fields: Sequence[Field] = ()
    _lines = b""

    @classmethod
    def lines(cls, fields: Sequence[Field]) -> bytes:
        if fields is not cls._fields:
            cls._fields, cls._lines = fields, lines(fields)
        return cls._lines


class ResponseHead(NamedTuple):
    """The head of an application's response.

    Attributes:
        status_line, lines: as bytes
        length: of the body in bytes; ``None`` if the head does not give it
        closes: whether the connection ends with this response
    """

    status_line: bytes
    lines: bytes
    length: int | None
    closes: bool


@lru_cache(256)
def response_head(status: int, fields: tuple[Field, ...]) -> ResponseHead:
    """Check and encode a head.

    Raises:
        ValueError: if the name or the value of a field is not allowed.
    """
    text = lines(fields)
    # The lines are counted, because a value that holds a whole field of its own would match as well.
    if not _LINES.fullmatch(text) or text.count(b"\n") != len(fields):
        raise ValueError("a response header: a token, and a value without control characters, are expected")
    length: int | None = None
    closes = False
    for name, value in fields:
        match name.lower():
            case b"content-length":
                length = int(value)
            case b"transfer-encoding":
                raise ValueError("header transfer-encoding: it is the server's to choose")
            case b"connection":
                closes |= b"close" in [token.strip() for token in value.lower().split(b",")]
    return ResponseHead(b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status)), text, length, closes)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


def problem_response(error: GatewayError, headers: Sequence[Field] = (), *, with_body: bool = True) -> bytes:
    """A whole response with a problem (RFC 9457), which says that the connection will be closed.

    Args:
        error: the problem
        headers: further ones
        with_body: ``False`` for the answer to HEAD, which tells the length of a body that it does not have (RFC 9110, section 9.3.2)
    """
    body = msgspec.json.encode(error.problem())
    fields = [
        *headers,
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"connection", b"close, upgrade" if isinstance(error, UpgradeRequired) else b"close"),
    ]
    if isinstance(error, UpgradeRequired):
        fields += [(b"upgrade", b"websocket"), (b"sec-websocket-version", WEBSOCKET_VERSION)]
    if error.retry_after is not None:
        fields.append((b"retry-after", b"%d" % error.retry_after))
    head = b"HTTP/1.1 %d %b\r\n%b\r\n" % (error.status, _phrase(error.status), lines(fields))
    return head + body if with_body else head


def accepting_response(key: bytes, defaults: Sequence[Field], fields: Sequence[Field] = ()) -> bytes:
    """The response that accepts an upgrade to WebSocket (RFC 6455, section 4.2.2).

    Args:
        key: the value of ``Sec-WebSocket-Key``
        defaults: the header fields of every response
        fields: further ones
    """
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return _ACCEPT % (accept, DefaultFields.lines(defaults), lines(fields))


def refusing_response(status: int, defaults: Sequence[Field], fields: Sequence[Field], body: bytes) -> bytes:
    """The whole response of an application that refuses an upgrade, after which the connection is closed.

    Args:
        status: of the response
        defaults: the header fields of every response
        fields: the application's; what is missing in them is added
        body: of the response
    """
    names = {name.lower() for name, _ in fields}
    usual = [(b"content-length", b"%d" % len(body)), (b"connection", b"close"), (b"content-type", b"text/plain; charset=utf-8")]
    fields = [*defaults, *fields, *(field for field in usual if field[0] not in names)]
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, _phrase(status), lines(fields), body)
