"""Clients that check after every message whether the guarantees of docs/protocol.md still hold."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from gateway.core.page import EARLIEST, Since
from gateway.core.subscription import Subscription
from gateway.core.wire import BLOCK, TEXT
from tests.core.model_processes import Process
from tests.core.redis_model import RedisModel


def parse_block(block: bytes) -> tuple[int | None, dict[str, Any]]:
    """The id and the JSON of an SSE block."""
    fields = dict(line.split(b": ", 1) for line in block.strip().split(b"\n"))
    return int(fields[b"id"]) if b"id" in fields else None, json.loads(fields[b"data"])


@dataclass
class Track:
    """What one client has received on one channel.

    Attributes:
        position: up to this id it has received every event or a gap notice; ``None`` before its first message
        cursor: the cursor with which it would reconnect
        came: its position when it subscribed: before the newest event in the log for ``last``, else after the newest of all channels
        anew: it subscribed without a cursor
        begins: it has asked for ``last`` or ``now`` and is not ready yet
        snapshot: ``cuts`` of the channel at the moment when it asked for ``last`` and the log had an event; otherwise ``None``
        told: missing events that a gap notice since the last event may stand for
    """

    position: int | None
    cursor: int | None
    came: int = 0
    ready: bool = False
    anew: bool = False
    begins: bool = False
    snapshot: int | None = None
    told: set[int] = field(default_factory=set)
    excused: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)


class Client:
    """A client, across its connections. Everything that is written to it is checked at once."""

    def __init__(self, redis: RedisModel, *, one_cursor: bool) -> None:
        self.redis = redis
        self.one_cursor = one_cursor
        self.tracks: dict[str, Track] = {}
        self.last_id: int | None = None
        self.room = 1_000
        self.process: Process | None = None
        self.subscription: Subscription | None = None
        self.problems: list[str] = []

    # Subscribing and leaving

    def come(self, process: Process, wanted: dict[str, Since], room: int) -> None:
        self.process = process
        self.room = room
        mine = Subscription(
            wire=BLOCK if self.one_cursor else TEXT,
            write=lambda data: self.take(mine, data),
            on_behind=process.feed.catch_up,
            on_done=lambda: None,
            on_failed=lambda: self.problems.append("reading failed"),
        )
        self.subscription = mine
        self.add(wanted)

    def add(self, wanted: dict[str, Since]) -> None:
        assert self.process is not None
        assert self.subscription is not None
        begin: dict[str, Since] = {}
        for name, since in wanted.items():
            track = self.tracks.get(name)
            cursor = self.last_id if self.one_cursor else track.cursor if track else None
            begin[name] = since if cursor is None else cursor
            if track is None or cursor is None:
                track = self.tracks[name] = Track(None, None)
            held = self.redis.holds(name)
            track.came = max(held) - 1 if begin[name] == "last" and held else self.redis.issued
            track.ready = False
            track.anew = cursor is None
            track.begins = isinstance(begin[name], str)
            track.position = cursor if cursor is not None else since if isinstance(since, int) else None
            track.snapshot = self.redis.cuts[name] if begin[name] == "last" and held else None
        self.process.feed.follow(self.subscription, begin)

    def ask(self, name: str, since: Since) -> None:
        """Subscribe without a cursor of its own. Where it goes on, all that was promised to it still is; otherwise it begins anew."""
        assert self.process is not None
        assert self.subscription is not None
        mine = self.subscription.cursors.get(name)
        if mine is not None and mine.goes_on(since):
            self.process.feed.follow(self.subscription, {name: since})
        else:
            self.tracks.pop(name, None)
            self.add({name: since})

    def remove(self, name: str) -> None:
        assert self.process is not None
        assert self.subscription is not None
        self.process.feed.leave(self.subscription, [name])
        self.tracks.pop(name, None)

    def go(self) -> None:
        assert self.process is not None
        assert self.subscription is not None
        self.process.feed.leave(self.subscription)
        self.process = self.subscription = None

    # What it receives

    def take(self, subscription: Subscription, data: bytes) -> None:
        if subscription is not self.subscription:
            self.problems.append(f"written after it left: {data!r}")
            return
        # One write may hold several blocks, and each takes up room for one message.
        for message in re.split(rb"(?<=\n\n)(?=.)", data) if self.one_cursor else [data]:
            try:
                self.check(*(parse_block(message) if self.one_cursor else (None, json.loads(message))))
            except AssertionError as error:
                self.problems.append(f"{error} at {message!r}")
            self.room -= 1
            if self.room == 0:
                subscription.pause()

    def check(self, place: int | None, message: dict[str, Any]) -> None:
        match message.get("op"):
            case "ready":
                for name, cursor in message["channels"].items():
                    self.check_ready(name, int(cursor))
                if place is not None:
                    assert self.last_id is None or place >= self.last_id, f"ready at {place} after {self.last_id}"
                    for name in self.tracks:
                        self.check_complete(name, place)
                    self.last_id = place
            case "gap":
                self.check_gap(message["channel"])
            case None if "id" in message:
                self.check_event(message["channel"], int(message["id"]), message["data"])

    def check_ready(self, name: str, cursor: int) -> None:
        track = self.tracks[name]
        track.ready = True
        if track.snapshot == self.redis.cuts[name]:
            assert track.received, f"no snapshot of {name}"
        if track.position is not None:
            self.check_complete(name, cursor)
        track.begins = False
        track.position = max(cursor, track.position or 0)
        track.cursor = cursor

    def check_gap(self, name: str) -> None:
        track = self.tracks[name]
        # Without a cursor its position is unknown until the first message, but not before that of its subscription.
        position = track.came if track.position is None else track.position
        missing = {event.id for event in self.redis.ledger[name].values() if event.id > position and event.gone and not event.collapsed}
        assert missing - track.received or position <= self.redis.lossy, f"a gap of {name} where nothing is missing"
        track.told |= missing

    def check_event(self, name: str, id: int, data: int) -> None:
        assert name in self.tracks, f"an event of {name}, which it does not follow"
        track = self.tracks[name]
        event = self.redis.ledger[name].get(id)
        assert event is not None, f"{id} was never published on {name}"
        assert json.loads(event.json)["data"] == data, f"{id} is another event"
        assert track.position is None or id > track.position, f"{id} of {name} is not above {track.position}"
        if self.one_cursor:
            assert self.last_id is None or id > self.last_id, f"{id} comes after {self.last_id} of another channel"
            for other, its in self.tracks.items():
                if its.position is not None:
                    self.check_complete(other, id - 1)
        elif track.position is not None:
            self.check_complete(name, id - 1)
        track.position = track.cursor = self.last_id = id
        track.received.add(id)
        track.excused |= {gone for gone in track.told if gone < id}
        track.told.clear()

    def check_complete(self, name: str, end: int) -> None:
        track = self.tracks[name]
        position = track.position or 0
        mine = self.subscription.cursors.get(name) if self.subscription else None
        if track.begins or position < EARLIEST or (mine is not None and mine.position < EARLIEST):
            # It asked for the whole log or its newest event, and gets no gap for what Redis had lost by then.
            position = max(position, self.redis.lossy)
        if track.anew:
            position = max(position, min(self.redis.lossy, track.came))
        known = track.excused | track.told | track.received
        lost = [e.id for e in self.redis.ledger[name].values() if position < e.id <= end and not e.collapsed and e.id not in known]
        assert not lost, f"{lost} of {name} lost in silence"
