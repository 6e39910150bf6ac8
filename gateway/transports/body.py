"""Body: the JSON that comes with a request, within a bound."""

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
    """What msgspec says of a body. It names an unknown field, and that may be as long as the body."""
    text = str(error)
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


class MemoryBudget:
    """For so many bytes of bodies at once, however many requests they belong to."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """One request's part of it, given back on leaving: to be called with each number of bytes that comes.

        Raises:
            Unavailable: from the call, if there is no room for them.
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


def _anything(size: int) -> None:
    pass


async def read_body(scope: Mapping[str, Any], receive: Receive, most: int, take: Callable[[int], None] = _anything) -> bytes:
    """The request's body. ``take`` is told of each part, and may refuse it.

    Raises:
        TooLarge: as soon as it is known to be over the limit, before it is read where its length is announced.
        UnsupportedMedia: if it is said to be something other than JSON, or compressed.
        BadRequest: if it is not UTF-8, and so no JSON (RFC 8259, section 8.1); or ends too early, and so is none (RFC 9112, section 8).
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
            raise BadRequest("the body has no end")  # though what came of it may be JSON
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
