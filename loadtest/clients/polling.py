"""Long polling over one kept-alive connection, turned into the same messages as those of the streaming transports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from loadtest.clients.stream import OPEN_SECONDS, SILENT_SECONDS, Ended, Message, Target, query


class PollingStream:
    """Follows a channel over ``/poll``."""

    name: ClassVar = "POLL"
    batches: ClassVar = True

    def __init__(self, target: Target) -> None:
        self._client = HTTPClient.from_url(target.host, connection_timeout=OPEN_SECONDS, network_timeout=SILENT_SECONDS)
        self._headers = target.headers
        self._channel = ""
        self._until_final = False
        self._first: dict[str, Any] = {}
        self._closed = False

    def open(self, channel: str, since: str, *, until_final: bool) -> None:
        self._channel, self._until_final = channel, until_final
        self._first = self._ask(since, wait=0)

    def _ask(self, since: str, wait: int) -> dict[str, Any]:
        if self._closed:
            raise Ended(0, "closed")
        try:
            answer = self._client.get(
                f"/poll?{query(self._channel, since, until_final=self._until_final)}&wait={wait}", headers=self._headers
            )
            content = answer.read()
        except (OSError, HTTPParseError, AttributeError) as error:  # AttributeError: see sse.py
            raise Ended(0, str(error) or type(error).__name__) from None
        if answer.status_code != 200:
            raise Ended(answer.status_code, "the poll was refused")
        decoded: dict[str, Any] = json.loads(content)
        return decoded

    def __iter__(self) -> Iterator[Message]:
        answer = self._first
        yield from _messages(answer)
        yield {"op": "ready", "channels": answer["channels"]}
        while not answer.get("done"):
            answer = self._ask(answer["channels"][self._channel], wait=25)
            yield from _messages(answer)
            yield {"op": "answered"}

    def close(self) -> None:
        self._closed = True
        self._client.close()


def _messages(answer: dict[str, Any]) -> Iterator[Message]:
    for name in answer["gaps"]:
        yield {"op": "gap", "channel": name}
    yield from answer["events"]
