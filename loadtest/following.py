"""Following: one user's view of one channel over all its connections, told to locust's statistics.

connect      from the first byte sent until the ready notice
first event  from there until the first event that was there before the connection; more of these are ``replay``
delivery     from the publisher's call to the event's arrival, for events published while connected
gap          a gap notice; its time means nothing
duplicate, loss   failures: what the gateway must not do
closed       the gateway ended the connection; its time is how long it lasted
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
    """An event did not come, and no gap notice told of it."""


class Following:
    """Follows one channel until it is over or the user is stopped.

    Args:
        make: a new connection
        events: locust's
        since: where the first connection begins
        churn: seconds that a connection is kept on average, 0 for ever
    """

    def __init__(self, make: Callable[[], Stream], channel: str, reader: Reader, events: Any, *, since: str, churn: float = 0.0) -> None:
        self._make = make
        self._channel = channel
        self._reader = reader
        self._request = events.request
        self._since = since
        self._churn = churn
        self._stream: Stream | None = None
        self._dropped = False
        self._judged = False

    def behind(self) -> int:
        """How many events have still to come."""
        return self._reader.behind()

    def follow(self, *, until_final: bool) -> None:
        """Connect, and again whenever the connection ends before the channel does. For ever, unless until_final."""
        while not self._connect(until_final=until_final):
            gevent.sleep(random.uniform(*BACK_OFF_SECONDS))

    def drop(self) -> None:
        """Let the connection go, as a page does that is closed or a train that enters a tunnel."""
        self._dropped = True
        if self._stream is not None:
            self._stream.close()

    def _connect(self, *, until_final: bool) -> bool:
        stream = self._stream = self._make()
        self._dropped = False
        began, leaving = time.perf_counter(), None
        connection = _Connection(self, stream, began)
        try:
            cursor = self._reader.position
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

    def judge_end(self) -> None:
        """Nothing more will come: what is missing is lost."""
        if not self._judged:
            self._judged = True
            self.lose(self._make().name, self._reader.behind())

    def lose(self, transport: str, count: int) -> None:
        """Report events that did not come."""
        for _ in range(count):
            self.report(transport, "loss", 0, exception=Loss("neither the event nor a gap notice came"))

    def report(self, transport: str, name: str, seconds: float, length: int = 0, exception: Exception | None = None) -> None:
        """Tell locust."""
        self._request.fire(
            request_type=transport, name=name, response_time=seconds * 1e3, response_length=length, exception=exception, context={}
        )

    @property
    def reader(self) -> Reader:
        """What judges the events."""
        return self._reader


class _Connection:
    """What comes over one connection, and when."""

    def __init__(self, following: Following, stream: Stream, began: float) -> None:
        self._following = following
        self._reader = following.reader
        self._name, self._batches = stream.name, stream.batches
        self._began = began
        self._ready: int | None = None  # in nanoseconds since 1970, as the events' times
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
        again, lost = self._reader.take(int(event["id"]), alone=not self._batches)
        sent = event["data"]["t"]
        if again:
            self._following.report(self._name, "duplicate", 0, exception=Duplicate("an event came twice, or after a later one"))
        elif self._ready is not None and sent >= self._ready:
            self._following.report(self._name, "delivery", (time.time_ns() - sent) / 1e9)
        else:
            name = "replay" if self._replayed else "first event"
            self._replayed = True
            self._following.report(self._name, name, time.perf_counter() - self._began)
        self._following.lose(self._name, lost)

    def ended(self, ended: Ended) -> None:
        seconds = time.perf_counter() - self._began
        if self._ready is None:
            self._following.report(self._name, "connect", seconds, exception=ended)
        else:
            self._following.report(self._name, f"closed {ended.code or 'without a code'}", seconds)
