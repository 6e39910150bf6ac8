"""An SSE client on geventhttpclient, the HTTP client of locust's FastHttpUser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar, Final

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketResponse

from loadtest.clients.stream import OPEN_SECONDS, SILENT_SECONDS, Ended, Message, Target, query

BLANK_LINE: Final = b"\n\n"


class SseStream:
    """Follows a channel over ``/sse``."""

    name: ClassVar = "SSE"
    batches: ClassVar = False

    def __init__(self, target: Target) -> None:
        self._client = HTTPClient.from_url(target.host, connection_timeout=OPEN_SECONDS, network_timeout=SILENT_SECONDS)
        self._headers = target.headers | {"Accept": "text/event-stream"}
        self._answer: HTTPSocketResponse | None = None

    def open(self, channel: str, since: str, *, until_final: bool) -> None:
        try:
            self._answer = self._client.get(f"/sse?{query(channel, since, until_final=until_final)}", headers=self._headers)
        except (OSError, HTTPParseError) as error:
            raise Ended(0, str(error) or type(error).__name__) from None
        if self._answer.status_code not in (200, 204):
            raise Ended(self._answer.status_code, "the stream was refused")

    def __iter__(self) -> Iterator[Message]:
        assert self._answer is not None
        try:
            while block := self._answer.readline(BLANK_LINE):
                for line in block.splitlines():
                    if line.startswith(b"data:"):
                        message: Message = json.loads(line[5:])
                        if message.get("op") == "bye" and message["code"] != 1000:
                            raise Ended(message["code"], message["reason"])
                        yield message
        except (OSError, HTTPParseError, AttributeError) as error:  # geventhttpclient's socket is None once another greenlet has closed it
            raise Ended(0, str(error) or type(error).__name__) from None

    def close(self) -> None:
        if self._answer is not None:
            self._answer.release()
        self._client.close()
