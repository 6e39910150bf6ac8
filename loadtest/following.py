"""Following: one simulated client that stays on one channel across reconnects, and reports what it sees to locust's statistics.

Each entry in the statistics is one of these; its time is:

connect           from the first byte sent until the ready notice
first event       from the first byte sent until the first event from the log; ``replay`` for further ones
delivery          from the publisher's call until the event arrives, for events published while connected
gap               none: a gap notice is only counted
duplicate, loss   none: failures, which a gateway must never cause
closed            how long the connection had lasted when the gateway ended it
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

import gevent

from loadtest.clients.stream import Ended, Message, Stream
from loadtest.reader import Reader

BACK_OFF_SECONDS: Final = (0.05, 1.0)


class Duplicate(Exception):
    """An event came twice, or after a later one."""


class Loss(Exception):
    """An event did not arrive, and no gap notice came in its place."""


class Following:
    """Follows one channel until it is over or the user is stopped.

    Args:
        make: creates a connection, not opened yet
        events: locust's event hooks, which take the reports
        since: where the first connection begins: ``0``, ``last`` or ``now``; later ones begin at the client's cursor
        churn: average seconds after which the client drops its connection and reconnects; 0 for never

    Attributes:
        reader: checks the events that arrive
    """

    def __init__(self, make: Callable[[], Stream], channel: str, reader: Reader, events: Any, *, since: str, churn: float = 0.0) -> None:
        self._make = make
        self._channel = channel
        self.reader = reader
        self._request = events.request
        self._since = since
        self._churn = churn
        self._stream: Stream | None = None
        self._dropped = False
        self._missing_reported = False

    def behind(self) -> int:
        """How many events have not arrived yet."""
        return self.reader.behind()

    def follow(self, *, until_final: bool) -> None:
        """Stay connected, reconnecting whenever the connection ends: until the channel's final event if asked, else for ever."""
        while not self._connect(until_final=until_final):
            gevent.sleep(random.uniform(*BACK_OFF_SECONDS))

    def drop(self) -> None:
        """Close the connection without a word, like a browser that loses its network."""
        self._dropped = True
        if self._stream is not None:
            self._stream.close()

    def _connect(self, *, until_final: bool) -> bool:
        stream = self._stream = self._make()
        self._dropped = False
        began, leaving = time.perf_counter(), None
        connection = _Connection(self, stream, began)
        try:
            cursor = self.reader.position
            stream.open(self._channel, str(cursor) if cursor is not None else self._since, until_final=until_final)
            if self._churn:
                leaving = gevent.spawn_later(random.expovariate(1 / self._churn), self.drop)
            for message in stream:
                connection.take(message)
        except Ended as ended:
            if not self._dropped:
                connection.ended(ended)
            return False
        else:
            return until_final
        finally:
            if leaving is not None:
                leaving.kill()
            stream.close()

    def report_missing(self) -> None:
        """Report what has not arrived by now as lost. Later calls do nothing."""
        if not self._missing_reported:
            self._missing_reported = True
            self.report_lost(self._make().name, self.reader.behind())

    def report_lost(self, transport: str, count: int) -> None:
        """Report so many losses."""
        for _ in range(count):
            self.report(transport, "loss", 0, exception=Loss("neither the event nor a gap notice came"))

    def report(self, transport: str, name: str, seconds: float, exception: Exception | None = None) -> None:
        """Add an entry to locust's statistics."""
        self._request.fire(
            request_type=transport, name=name, response_time=seconds * 1e3, response_length=0, exception=exception, context={}
        )


class _Connection:
    """Reports what arrives over one connection, and when."""

    def __init__(self, following: Following, stream: Stream, began: float) -> None:
        self._following = following
        self._reader = following.reader
        self._name, self._batches = stream.name, stream.batches
        self._began = began
        self._ready: int | None = None  # nanoseconds since 1970, like the times in the events
        self._replayed = False

    def take(self, message: Message) -> None:
        op = message.get("op")
        if op is None:
            self._take_event(message)
        elif op == "gap":
            self._reader.gap()
            self._following.report(self._name, "gap", 0)
        elif op == "answered":
            self._reader.answered()
        elif op == "ready":
            self._reader.begin(max(map(int, message["channels"].values())))
            self._ready = time.time_ns()
            self._following.report(self._name, "connect", time.perf_counter() - self._began)

    def _take_event(self, event: Message) -> None:
        duplicate, lost = self._reader.take(int(event["id"]), alone=not self._batches)
        sent = event["data"]["t"]
        if duplicate:
            self._following.report(self._name, "duplicate", 0, exception=Duplicate("an event came twice, or after a later one"))
        elif self._ready is not None and sent >= self._ready:
            self._following.report(self._name, "delivery", (time.time_ns() - sent) / 1e9)
        else:
            name = "replay" if self._replayed else "first event"
            self._replayed = True
            self._following.report(self._name, name, time.perf_counter() - self._began)
        self._following.report_lost(self._name, lost)

    def ended(self, ended: Ended) -> None:
        seconds = time.perf_counter() - self._began
        if self._ready is None:
            self._following.report(self._name, "connect", seconds, exception=ended)
        else:
            self._following.report(self._name, f"closed {ended.code or 'without a code'}", seconds)
