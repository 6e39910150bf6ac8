"""The run: what the users of one locust process share.

The publisher and all followers of a channel are in the same process, so that it can check what they receive by itself.
"""

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

PUBLISH_SECONDS: Final = 25.0  # longer than a publisher takes to give up


class Run:
    """One test run, from its start to its stop.

    Attributes:
        ledgers: of the shared channels
        followings: the clients that are checked at the end
        stopping: set when nothing more is to be published
        over: set when all clients have been checked
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
        """A new publisher, which the end of the run waits for."""
        way: Way = RedisWay(self._redis) if self._redis is not None else HttpWay(self.target)
        publishing = Publishing(way, self.events, self.options.event_bytes)
        self._publishings.add(publishing)
        return publishing

    def _storm(self) -> None:
        while not self.stopping.wait(self.options.storm):
            for following in list(self.followings):
                following.drop()

    def settle(self) -> None:
        """Stop publishing, wait up to ``--patience`` seconds for the events still under way, and report the missing ones as lost.

        A second call only waits for the first.
        """
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
            following.report_missing()
        self.over.set()
        self.close()

    def close(self) -> None:
        """Stop the storms and close the connection to Redis."""
        self.stopping.set()
        if self._storms is not None:
            self._storms.kill()
        if self._redis is not None:
            self._redis.close()
