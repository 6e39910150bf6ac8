"""A model of the data that publish.lua and read.lua keep in Redis, with a ledger of everything that was ever recorded.

It replies with the same bytes as Redis, so that the gateway's own code parses them. Two cases are left out, because no
reader could see them: a log evicted together with the key of its newest id (as if the channel had never had an event); and
a clock set back behind ids that are lost at the same time.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

START = 1_800_000_000_000_000
ENTRY = re.compile(rb"(\d{16}) (\d+) ?([^\n]*)\n")
PAGE = 3  # entries of one read: few, so that most logs need several pages


@dataclass
class Recorded:
    """An event that was published."""

    id: int
    json: bytes
    collapsed: bool = False  # a later event has replaced it in the log
    gone: bool = False  # it was removed from the log, though a snapshot may have restored it


@dataclass(eq=False)
class Connection:
    """The pub/sub connection of one gateway process, with what Redis has written to it and the process has not read yet."""

    alive: bool = True
    subscribed: set[str] = field(default_factory=set)
    stream: deque[list[Any]] = field(default_factory=deque)


class RedisModel:
    """One Redis.

    Attributes:
        ledger: by channel and id
        lossy: events up to this id may have been lost with Redis's data
        cuts: how often entries were removed from a channel's log
    """

    def __init__(self, channels: list[str]) -> None:
        self.time = START
        self.run = 0
        self.clock: dict[str, int] = {}
        self.floors: list[int] = []
        self.logs: dict[str, list[bytes]] = {name: [] for name in channels}
        self.newest: dict[str, bytes] = {}
        self.connections: list[Connection] = []
        self.ledger: dict[str, dict[int, Recorded]] = {name: {} for name in channels}
        self.lossy = 0
        self.issued = 0
        self.cuts = dict.fromkeys(channels, 0)
        self._may_have_lost = False
        self.save()

    # publish.lua

    def _open(self) -> int:
        last = self.clock.get("last")
        if last is not None and self.clock["server"] == self.run:
            return last
        if last is None or self._may_have_lost:
            last = max(self.time, (last or 0) + 1)
            self.clock = {"last": last, "server": self.run}
            self.floors.append(last)
        else:
            self.clock["server"] = self.run
        self._may_have_lost = False
        return last

    def greet(self, heard: int) -> None:
        if heard > self._open():
            self.clock["last"] = heard + 1
            self.floors.append(heard + 1)

    def publish(self, channel: str, data: int, *, final: bool, keep: int, collapse: str) -> None:
        json = b'{"type":"n","data":%d%b}' % (data, b',"final":true' if final else b"")
        id = max(self.time, self._open() + 1)
        log, last = self.logs[channel], self.newest.get(channel)
        newest = ENTRY.match(log[-1]) if log else None
        before = int(last[:-1]) if last is not None else int(newest[1]) if newest else 0
        if collapse and newest and newest[3] == collapse.encode():
            self.ledger[channel][int(newest[1])].collapsed = True
            log[-1] = b"%d %b %b\n%b" % (id, newest[2], collapse.encode(), json)
        else:
            log.append(b"%d %d%b\n%b" % (id, before, b" " + collapse.encode() if collapse else b"", json))
            if len(log) > keep:
                self._drop(channel, log[-keep:])
        self.newest[channel] = b"%d%d" % (id, final)
        self.clock["last"] = self.issued = id
        self.ledger[channel][id] = Recorded(id, json)
        self.announce(channel, b"%d %d\n%b" % (id, before, json))

    def announce(self, channel: str, payload: bytes) -> None:
        for connection in self.connections:
            if connection.alive and channel in connection.subscribed:
                connection.stream.append([b"message", b"notify:" + channel.encode(), payload])

    # read.lua

    def read(self, channel: str, cursor: int | str) -> list[Any]:
        log = self.logs[channel]
        head = [b"%d" % self.clock.get("last", 0), b" ".join(b"%d" % floor for floor in self.floors), self.newest.get(channel, b""), 0]
        if cursor == "now" or not log:
            return head
        if cursor == "last":
            return [*head, *[entry for entry in log if ENTRY.match(entry)][-1:]]
        ids = [int(ours[1]) if (ours := ENTRY.match(entry)) else 0 for entry in log]
        after = next((i for i, id in enumerate(ids) if id > int(cursor)), len(log))
        entries = log[after : after + PAGE]
        if after + PAGE < len(log):
            following = ENTRY.match(log[after + PAGE])
            head[3] = b"%b %b" % (following[1], following[2]) if following else 1
        return [*head, *entries]

    # Faults

    def set_clock_back(self, by: int) -> None:
        """Set the clock back, but not behind ids that may have been lost: nothing could detect that."""
        self.time = max(self.time - by, self.lossy + 1)

    def holds(self, channel: str) -> set[int]:
        return {int(ours[1]) for entry in self.logs[channel] if (ours := ENTRY.match(entry))}

    def _drop(self, channel: str, rest: list[bytes]) -> None:
        before = self.holds(channel)
        self.logs[channel] = rest
        self.cuts[channel] += 1
        for id in before - self.holds(channel):
            self.ledger[channel][id].gone = True

    def cut(self, channel: str) -> None:
        """The log expires or is evicted; the key with the channel's newest id stays."""
        self._drop(channel, [])

    def _lose(self) -> None:
        self.lossy = max(self.lossy, self.issued, self.clock.get("last", 0))
        self.time = max(self.time, self.lossy + 1)

    def flush(self) -> None:
        """All keys are deleted while the server keeps running."""
        self._lose()
        self.clock = {}
        self.floors = []
        self.newest = {}
        for channel in self.ledger:
            self.cut(channel)

    def save(self) -> None:
        """Save a snapshot, from which a restart without an append-only file, or a replica that lags, begins."""
        self._saved = dict(self.clock), list(self.floors), {name: list(log) for name, log in self.logs.items()}, dict(self.newest)

    def restart(self, *, keeps_all: bool) -> None:
        """Start a new server process, from its append-only file if it keeps all, or else from the last snapshot."""
        for connection in self.connections:
            connection.alive = False
        self.run += 1
        self._may_have_lost |= not keeps_all
        if keeps_all:
            return
        self._lose()
        clock, floors, logs, newest = self._saved
        self.clock, self.floors, self.newest = dict(clock), list(floors), dict(newest)
        for channel, log in logs.items():
            self._drop(channel, list(log))
