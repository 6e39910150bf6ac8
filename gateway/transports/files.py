"""Files: static files, plain or gzipped, with an ETag."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.transports.answers import check_method
from gateway.transports.request import headers
from gateway.transports.writer import Receive, Send

TYPES: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".svg": b"image/svg+xml",
}


_CACHED: Final = [(b"cache-control", b"no-cache"), (b"vary", b"accept-encoding"), (b"x-content-type-options", b"nosniff")]


class _Form(NamedTuple):
    """One encoding of a file. Each is a representation of its own, and so has its own tag (RFC 9110, section 8.8.3.3)."""

    tag: str
    body: bytes
    headers: list[tuple[bytes, bytes]]


class FileEndpoint:
    """One file, read once. A browser asks each time whether it has changed, and mostly hears that it has not.

    Args:
        path: of the file
        headers: further ones
    """

    def __init__(self, path: Path, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._headers = [*_CACHED, *headers]
        body = path.read_bytes()
        tag = hashlib.sha256(body).hexdigest()[:20]
        kind = (b"content-type", TYPES[path.suffix])
        self._plain = _Form(f'"{tag}"', body, [kind])
        self._gzipped = _Form(f'"{tag}-gzip"', gzip.compress(body, 9, mtime=0), [kind, (b"content-encoding", b"gzip")])

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "GET", "HEAD")
        form = self._gzipped if _takes_gzip(headers(scope, b"accept-encoding")) else self._plain
        cached = [(b"etag", form.tag.encode()), *self._headers]
        if _is_known(form.tag, headers(scope, b"if-none-match")):
            await send({"type": "http.response.start", "status": 304, "headers": cached})
            await send({"type": "http.response.body", "body": b""})
        else:
            content = [*form.headers, (b"content-length", b"%d" % len(form.body))]
            await send({"type": "http.response.start", "status": 200, "headers": cached + content})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else form.body})


def _is_known(tag: str, known: list[str]) -> bool:
    # RFC 9110, section 13.1.2: a list, compared weakly.
    tags = {tag.strip().removeprefix("W/") for value in known for tag in value.split(",")}
    return tag in tags or tags == {"*"}


def _takes_gzip(accepted: list[str]) -> bool:
    # RFC 9110, section 12.5.3; a weight of 0 forbids.
    codings = [coding.replace(" ", "").lower().partition(";q=") for value in accepted for coding in value.split(",")]
    return any(name == "gzip" and (not weight or weight.strip("0.") != "") for name, _, weight in codings)
