"""Body: reads the JSON body of a request, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from gateway.core.event import show
from gateway.errors import BadRequest, TooLarge, Unavailable, UnsupportedMedia
from gateway.transports.request import header
from gateway.transports.writer import Receive

MAX_REASON: Final = 200  # characters


def reason(error: Exception) -> str:
    """The text of msgspec's error about a body, cut: it quotes the names of unknown fields, which may be as long as the body."""
    text = str(error)
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


class MemoryBudget:
    """A bound on the bytes of all bodies that are held at the same time.

    Args:
        most: that many bytes
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """One request's part of the budget, given back on leaving.

        Yields:
            a function to be called with the size of each part of the body as it comes. It raises ``Unavailable`` if the budget is used up
        """
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if self._held + size > self._most:
                raise Unavailable(f"{self._held} bytes of bodies are being read: more than {self._most} are not allowed")
            self._held += size
            mine += size

        try:
            yield take
        finally:
            self._held -= mine


def _unlimited(size: int) -> None:
    pass


async def read_body(scope: Mapping[str, Any], receive: Receive, most: int, take: Callable[[int], None] = _unlimited) -> bytes:
    """Read the body of a request.

    Args:
        scope: of ASGI
        receive: of ASGI
        most: the largest number of bytes allowed
        take: called with the size of each part, which it may refuse by raising an error

    Raises:
        TooLarge: as soon as the body is known to be over the limit; before anything is read if its Content-Length says so.
        UnsupportedMedia: if its headers say that it is not JSON, or that it is compressed.
        BadRequest: if it is not UTF-8 and so cannot be JSON (RFC 8259, section 8.1), or is cut off (RFC 9112, section 8).
    """
    kind = (header(scope, b"content-type") or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMedia(f"content-type {show(kind)}: application/json is expected")
    coding = header(scope, b"content-encoding")
    if coding is not None and coding.lower() != "identity":
        raise UnsupportedMedia(f"content-encoding {show(coding)}: none is expected")
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > most:
        raise TooLarge(f"a body of {show(length)} bytes: at most {most} are allowed")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("the body is incomplete")  # even if the part that has come is valid JSON
        part = message.get("body", b"")
        take(len(part))
        body += part
        if len(body) > most:
            raise TooLarge(f"a body of more than {most} bytes")
        more = message.get("more_body", False)
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not JSON: byte {error.start} is not UTF-8") from None
    return bytes(body)
