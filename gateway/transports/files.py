"""Files: what is served as it stands, with an ETag: the browser client and the description of the interface."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.errors import MethodNotAllowed
from gateway.transports.answers import answer_problem
from gateway.transports.request import headers
from gateway.transports.writer import Receive, Send

TYPES: Final = {".js": b"text/javascript; charset=utf-8", ".json": b"application/json"}


class FileEndpoint:
    """One file, read once. A browser asks each time whether it has changed, and mostly hears that it has not."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:20]}"'
        self._headers = [
            (b"etag", self._tag.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
        ]
        self._content = [(b"content-type", TYPES[path.suffix]), (b"content-length", b"%d" % len(self._body))]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            error = MethodNotAllowed(f"method {scope['method']!a}: GET or HEAD is expected")
            await answer_problem(send, error, [(b"allow", b"GET, HEAD")])
        elif self._is_known(headers(scope, b"if-none-match")):
            await send({"type": "http.response.start", "status": 304, "headers": self._headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers + self._content})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self._body})

    def _is_known(self, known: list[str]) -> bool:
        # RFC 9110, section 13.1.2: a list, compared weakly.
        tags = {tag.strip().removeprefix("W/") for value in known for tag in value.split(",")}
        return self._tag in tags or tags == {"*"}
