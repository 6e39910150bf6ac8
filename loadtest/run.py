"""The run: what the users of one locust process share. A channel has publisher and followers in one process, which can then judge it."""

from __future__ import annotations

import os
import uuid
from argparse import Namespace
from typing import Any, Final
from weakref import WeakSet

import gevent
from gevent.event import Event
from notify_client import Publisher

from loadtest.clients.stream import Target
from loadtest.following import Following
from loadtest.ledger import Ledger
from loadtest.publishing import HttpWay, Publishing, RedisWay, Way

PUBLISH_SECONDS: Final = 25.0  # longer than any publisher takes to give up


class Run:
    """From one press of "start" to the next.

    Attributes:
        ledgers: of the shared channels
        followings: those that are judged at the end
        stopping: set when nothing more is to be published
        over: set when all has been judged
    """

    def __init__(self, options: Namespace, host: str, events: Any) -> None:
        self.options = options
        self.target = Target(host.rstrip("/"), options.token)
        self.events = events
        name = f"load:{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.ledgers = [Ledger(f"{name}:{number}") for number in range(max(1, options.channels))]
        self.followings: set[Following] = set()
        self.stopping = Event()
        self.over = Event()
        self._publishings: WeakSet[Publishing] = WeakSet()
        self._redis = Publisher(options.redis_url, timeout=5.0) if options.redis_url else None
        self._storms = gevent.spawn(self._storm) if options.storm > 0 else None

    def publishing(self) -> Publishing:
        """A publisher of one's own."""
        way: Way = RedisWay(self._redis) if self._redis is not None else HttpWay(self.target)
        publishing = Publishing(way, self.events, self.options.event_bytes)
        self._publishings.add(publishing)
        return publishing

    def _storm(self) -> None:
        while not self.stopping.wait(self.options.storm):
            for following in list(self.followings):
                following.drop()

    def settle(self) -> None:
        """Wait until everybody has got what is theirs, or patience is over; what is missing then is lost. Once only."""
        if self.stopping.is_set():
            self.over.wait()
            return
        self.stopping.set()
        with gevent.Timeout(PUBLISH_SECONDS, False):
            while any(publishing.busy for publishing in self._publishings):
                gevent.sleep(0.02)
        with gevent.Timeout(self.options.patience, False):
            while any(following.behind() for following in self.followings):
                gevent.sleep(0.02)
        for following in list(self.followings):
            following.judge_end()
        self.over.set()
        self.close()

    def close(self) -> None:
        """Leave nothing behind."""
        self.stopping.set()
        if self._storms is not None:
            self._storms.kill()
        if self._redis is not None:
            self._redis.close()
