"""Heads: checks a request's head before anything else uses it, without I/O.

The parser (llhttp) refuses what breaks the grammar, such as bare line feeds, NUL, or Content-Length together with Transfer-Encoding,
and tells whether a head asks for an upgrade. uvicorn checks nothing more, and its WebSocket protocols leave some heads unanswered. The
checks that are missing are here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import httptools

from gateway.core.event import show
from gateway.errors import BadRequest, HeadTooLarge, UpgradeRequired, UriTooLong

MAX_HEAD_BYTES: Final = 65_536
MAX_URI_BYTES: Final = 32_768  # 128 channels with cursors take 23 KB, if each name has 128 characters, some of them percent-encoded
MAX_HEADERS: Final = 200  # a browser sends 20, and a chain of proxies may add as many

# If one of these headers comes twice, one program uses the first and the next program the second, which makes request smuggling possible.
_ONCE: Final = frozenset(
    b"host content-length transfer-encoding expect authorization origin last-event-id sec-websocket-key sec-websocket-version".split()
)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")  # no digits: RFC 3986, 3.2.3
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64

WEBSOCKET_VERSION: Final = b"13"

# How the first bytes begin if a proxy was told to speak something else to the gateway.
_OTHERS: Final = {
    b"PROXY ": "the PROXY protocol",
    b"\r\n\r\n\0\r\nQUIT\n": "the PROXY protocol",
    b"\x16\x03": "TLS",
    b"PRI * HTTP/2.0\r\n": "HTTP/2",
}


class Head(NamedTuple):
    """What the protocol must know of a valid head.

    Attributes:
        key: of an upgrade to WebSocket; empty if none is asked for
        offers_other: whether an upgrade to another protocol is offered, which is declined
        has_body: whether a body follows
        expects_continue: whether the client waits for ``100 Continue`` before it sends the body
    """

    key: bytes = b""
    offers_other: bool = False
    has_body: bool = False
    expects_continue: bool = False


PLAIN: Final = Head()


def check_head(method: bytes, version: str, uri: bytes, headers: Sequence[tuple[bytes, bytes]], *, upgrading: bool = False) -> Head:
    """Check a head (RFC 9112, section 3; RFC 6455, section 4.2.1).

    Args:
        method: as it came
        version: of HTTP, such as ``1.1``
        uri: as it came
        headers: names in lower case, and values
        upgrading: whether the parser takes what follows for another protocol

    Raises:
        GatewayError: the error to answer with.
    """
    if version not in ("1.1", "1.0"):
        raise BadRequest(f"HTTP/{version}: HTTP/1.1 is expected")
    if method == b"CONNECT":
        raise BadRequest("method CONNECT: this is not a proxy")
    if len(uri) > MAX_URI_BYTES:
        raise UriTooLong(f"an address of {len(uri)} bytes: at most {MAX_URI_BYTES} are allowed")
    _check_address(uri)
    if len(headers) > MAX_HEADERS:
        raise HeadTooLarge(f"{len(headers)} headers: at most {MAX_HEADERS} are allowed")
    size = len(uri)
    websocket = False
    noted: dict[bytes, bytes] = {}
    for name, value in headers:
        size += len(name) + len(value)
        if name in _ONCE:
            if name in noted:
                raise BadRequest(f"header {name.decode()}: one is expected, there are several")
            noted[name] = value
        elif name == b"upgrade":  # a client may offer several (RFC 9110, section 7.8)
            websocket |= b"websocket" in [offer.strip() for offer in value.lower().split(b",")]
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge(f"a head of {size} bytes: at most {MAX_HEAD_BYTES} are allowed")
    _check_host(version, noted.get(b"host"))
    has_body = _has_body(noted)
    if upgrading and websocket:
        _check_upgrade(method, version, noted, has_body=has_body)
        return Head(key=noted[b"sec-websocket-key"])
    if not (has_body or upgrading):
        return PLAIN
    expects_continue = has_body and version == "1.1" and noted.get(b"expect", b"").lower() == b"100-continue"
    return Head(offers_other=upgrading, has_body=has_body, expects_continue=expects_continue)


def _check_address(uri: bytes) -> None:
    if not uri.isascii() or b"#" in uri:
        rule = "ASCII without a fragment is expected, the rest in percent-encoding"
    elif not (uri.startswith(b"/") or _is_absolute(uri)):
        rule = "a path, or http:// and a host and a path, is expected"
    else:
        return
    path = uri.partition(b"?")[0][:60]  # without the query string, which may hold a token
    raise BadRequest(f"address {show(path)}: {rule}")


def _is_absolute(uri: bytes) -> bool:
    try:
        httptools.parse_url(uri)
    except httptools.HttpParserInvalidURLError:
        return False
    return True


def _check_host(version: str, host: bytes | None) -> None:
    if host is None:
        if version != "1.0":
            raise BadRequest("no Host: one is expected (RFC 9112, section 3.2)")
    elif not _HOST.fullmatch(host):
        raise BadRequest(f"header host: {show(host[:60])}: a name or an address, perhaps with a port, is expected")


def _has_body(noted: dict[bytes, bytes]) -> bool:
    coding = noted.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":  # the parser would accept other codings, and not undo them
        raise BadRequest(f"header transfer-encoding: {show(coding[:60])}: chunked is expected, and nothing more")
    return coding is not None or noted.get(b"content-length", b"0") != b"0"


def _check_upgrade(method: bytes, version: str, noted: dict[bytes, bytes], *, has_body: bool) -> None:
    if method != b"GET" or version != "1.1" or has_body:
        raise BadRequest("an upgrade to websocket: GET, HTTP/1.1 and no body are expected")
    if not _KEY.fullmatch(noted.get(b"sec-websocket-key", b"")):
        raise BadRequest("header sec-websocket-key: 16 bytes in base64 are expected")
    offered = noted.get(b"sec-websocket-version")
    if offered is None:
        raise BadRequest("no header sec-websocket-version: 13 is expected")
    if offered != WEBSOCKET_VERSION:
        raise UpgradeRequired(f"header sec-websocket-version: {show(offered[:20])}: 13 is expected")


def other_protocol(data: bytes) -> str | None:
    """What a connection speaks that begins with these bytes; ``None`` if that is not known."""
    return next((name for beginning, name in _OTHERS.items() if data.startswith(beginning)), None)


def without_upgrade(method: bytes, version: str, uri: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The bytes of the same head without the upgrade that it offers."""
    kept = b"".join([b"%b: %b\r\n" % field for field in headers if field[0] != b"upgrade"])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, uri, version.encode(), kept)
