"""Publishing: one event at a time, each noted in its channel's ledger once the gateway or Redis has acknowledged it."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Final, Protocol

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError
from notify_client import Publisher

from loadtest.clients.stream import Target
from loadtest.ledger import Ledger

ANSWER_SECONDS: Final = 10.0


class NotPublished(Exception):
    """An event was refused, or its outcome is unknown."""


class Way(Protocol):
    """How an event gets into Redis."""

    name: str

    def publish(self, channel: str, event: dict[str, Any], collapse: str | None) -> int:
        """The id of the recorded event.

        Raises:
            NotPublished: if there is none.
        """


class HttpWay:
    """``POST /publish``: needs nothing but the address of the gateway."""

    name = "POST"

    def __init__(self, target: Target) -> None:
        self._client = HTTPClient.from_url(target.host, connection_timeout=ANSWER_SECONDS, network_timeout=ANSWER_SECONDS)
        self._headers = target.headers | {"Content-Type": "application/json"}

    def publish(self, channel: str, event: dict[str, Any], collapse: str | None) -> int:
        body = {"channel": channel, "key": uuid.uuid4().hex, **event} | ({} if collapse is None else {"collapse": collapse})
        try:
            return self._post(channel, json.dumps(body))
        except (OSError, HTTPParseError):
            pass  # perhaps the gateway has just closed the kept-alive connection; with the idempotency key a second attempt is safe
        try:
            return self._post(channel, json.dumps(body))
        except (OSError, HTTPParseError) as error:
            raise NotPublished(str(error) or type(error).__name__) from None

    def _post(self, channel: str, body: str) -> int:
        answer = self._client.post("/publish", body=body, headers=self._headers)
        content = answer.read()
        if answer.status_code != 200:
            raise NotPublished(f"{answer.status_code} {content[:200].decode(errors='replace')}")
        return int(json.loads(content)["ids"][channel])


class RedisWay:
    """One command to Redis, as a worker publishes."""

    name = "FCALL"

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def publish(self, channel: str, event: dict[str, Any], collapse: str | None) -> int:
        id = self._publisher.publish(channel, event["type"], event["data"], final=event.get("final", False), collapse=collapse)
        if id is None:
            raise NotPublished("dropped: Redis is away, slow or refuses")
        return int(id)


class Publishing:
    """One publisher on one or more channels.

    Args:
        way: over HTTP or through Redis
        events: locust's event hooks, which take the reports
        padding: bytes that each event carries besides its time of publishing
    """

    def __init__(self, way: Way, events: Any, padding: int) -> None:
        self._way = way
        self._events = events
        self._padding = "x" * padding
        self.busy = False

    def publish(self, ledger: Ledger, type: str, *, collapse: str | None = None, final: bool = False) -> None:
        """Publish one event and report it to locust; a failure is reported as such and leaves the ledger without the event."""
        data = {"t": time.time_ns(), "pad": self._padding}
        event = {"type": type, "data": data} | ({"final": True} if final else {})
        ledger.begin(collapse)
        self.busy = True
        with self._events.request.measure(self._way.name, "publish") as report:
            try:
                ledger.acknowledge(self._way.publish(ledger.channel, event, collapse), collapse)
            except NotPublished as error:
                report["exception"] = error
            finally:
                self.busy = False
