"""Assets: the page's files, read once, served with an ETag and strict headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.errors import MethodNotAllowed
from gateway.transports.answers import answer_problem
from gateway.transports.request import header
from gateway.transports.writer import Receive, Send

HERE: Final = Path(__file__).parent

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Asset:
    """One file. A browser asks each time whether it has changed, and mostly hears that it has not."""

    def __init__(self, name: str) -> None:
        self._body = (HERE / name).read_bytes()
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:20]}"'
        self._headers = [
            (b"etag", self._tag.encode()),
            (b"cache-control", b"no-cache"),
            (b"content-security-policy", POLICY.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        self._content = [
            (b"content-type", TYPES[Path(name).suffix].encode()),
            (b"content-length", b"%d" % len(self._body)),
        ]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            error = MethodNotAllowed(f"method {scope['method']!a}: GET or HEAD is expected", ("GET", "HEAD"))
            await answer_problem(send, error)
        elif self._has(header(scope, b"if-none-match")):
            await send({"type": "http.response.start", "status": 304, "headers": self._headers})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers + self._content})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self._body})

    def _has(self, known: str | None) -> bool:
        # RFC 9110, section 13.1.2: a list, compared weakly.
        tags = [tag.strip().removeprefix("W/") for tag in (known or "").split(",")]
        return self._tag in tags or tags == ["*"]
