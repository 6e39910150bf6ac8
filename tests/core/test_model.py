"""The contract's section 4, held against every interleaving that hypothesis can think of.

Two gateway processes (the feed with its core, its shared reads, and the listener's book-keeping; only the sockets are left
out) stand before a model of Redis. What the steps do is what life does: publish, collapse, trim, expire, lose data, restart;
deliver an announcement late or lose it with the connection; run a read and answer it later; let a client's writer fill up;
subscribe, unsubscribe, go away and come back to the other process with a cursor. Each client checks at every message:

- each recorded event after its cursor comes once, in order of id, or a gap notice comes before any later event;
- over all channels of a client with one cursor (SSE) the same holds, so that this cursor is true at any moment;
- no gap is told where nothing can be missing;
- once everything has settled, every client is live, was told ``ready``, and has everything or was told.

The normal run makes 2,000 steps, the same ones each time. As many as you like, new ones each time:

    MODEL_STEPS=100000 uv run pytest tests/core/test_model.py --timeout 0
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core import subscription as subscription_module
from gateway.core.event import BLOCK, TEXT
from gateway.core.page import EARLIEST, Since
from gateway.core.subscription import Subscription
from gateway.feed import Feed, Reads
from gateway.store.log import Log
from tests.core.redis_model import Connection, RedisModel

CHANNELS = ["a", "b", "c"]
STEPS = int(os.environ.get("MODEL_STEPS", "2000"))
STEPS_OF_ONE = 200


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that turns when it is told to, and whose clock goes when it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()


@contextmanager
def inside(loop: VirtualLoop) -> Iterator[None]:
    """Act as a callback of the loop would, without a turn of it."""
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@dataclass(eq=False)
class Request:
    """Reads on their way: run by Redis one by one, answered together."""

    calls: list[Any]
    answered: asyncio.Future[list[Any]]
    replies: list[Any] = field(default_factory=list)


class ModelLog(Log):
    """The log, with its commands going to the model."""

    def __init__(self, requests: list[Request]) -> None:
        super().__init__(Redis())
        self._requests = requests

    async def _run(self, name: str, calls: Any) -> list[Any]:
        request = Request(list(calls), asyncio.get_running_loop().create_future())
        self._requests.append(request)
        return await request.answered

    async def open(self, heard: int = 0) -> None:
        await self._run("greet", [(None, heard, 0)])


class Tasks:
    """Stands for the feed's task group."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def create_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        assert task.cancelled() or task.exception() is None


class Process:
    """One gateway process, as far as the feed goes."""

    def __init__(self, redis: RedisModel) -> None:
        self.redis = redis
        self.requests: list[Request] = []
        self.feed = Feed(Redis())
        self.feed.log = ModelLog(self.requests)
        self.feed.reads = Reads(self.feed.log, self.feed.hub)
        self.tasks = Tasks()
        self.feed._tasks = self.tasks  # type: ignore[assignment]
        self.connection: Connection | None = None

    def connect(self) -> None:
        if self.connection is not None:
            self.redis.connections.remove(self.connection)
        self.redis.greet(self.feed.hub.heard)
        self.connection = Connection()
        self.redis.connections.append(self.connection)
        self.feed.listener._to_send = dict.fromkeys(self.feed.listener._wanted, True)

    def lose(self) -> None:
        """The end of the connection is noticed, and what it had not read is gone."""
        if self.connection is not None:
            self.redis.connections.remove(self.connection)
            self.connection = None
            self.feed.listener._forget()

    def send(self) -> None:
        """Let the listener's commands reach Redis."""
        if self.connection is None or not self.connection.alive:
            return
        changes, self.feed.listener._to_send = self.feed.listener._to_send, {}
        for name, wanted in changes.items():
            if wanted:
                self.connection.subscribed.add(name)
                self.connection.stream.append([b"subscribe", b"notify:" + name.encode(), 1])
            else:
                self.connection.subscribed.discard(name)

    def deliver(self, count: int) -> None:
        for _ in range(count):
            if self.connection is not None and self.connection.stream:
                self.feed.listener._take(self.connection.stream.popleft())

    def run_reads(self, which: int, count: int) -> None:
        """Redis runs some commands of one pipeline."""
        waiting = [request for request in self.requests if len(request.replies) < len(request.calls)]
        if waiting:
            request = waiting[which % len(waiting)]
            for channel, since, _ in request.calls[len(request.replies) :][:count]:
                if channel is None:
                    self.redis.greet(since)
                request.replies.append(self.redis.read(channel, since) if channel else None)

    def answer(self, which: int) -> None:
        ready = [request for request in self.requests if len(request.replies) == len(request.calls)]
        if ready:
            request = ready[which % len(ready)]
            self.requests.remove(request)
            request.answered.set_result(request.replies)

    def fail(self) -> None:
        for request in self.requests:
            request.answered.set_exception(RedisConnectionError("gone"))
        self.requests.clear()


def parse_block(block: bytes) -> tuple[int | None, dict[str, Any]]:
    """The id and the JSON of an SSE block."""
    fields = dict(line.split(b": ", 1) for line in block.strip().split(b"\n"))
    return int(fields[b"id"]) if b"id" in fields else None, json.loads(fields[b"data"])


@dataclass
class Track:
    """What one client knows of one channel.

    Attributes:
        position: it has everything up to here, or was told; ``None`` before its first message
        cursor: what it would come back with
        came: the newest id of all when it came
        anew: it came without a cursor
        begins: and is not ready yet
        snapshot: it asked for the newest event and the log had one; with how often the log had been cut then
    """

    position: int | None
    cursor: int | None
    came: int = 0
    ready: bool = False
    anew: bool = False
    begins: bool = False
    snapshot: int | None = None
    excused: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)


class Client:
    """One client with one connection after the other. Everything that is written to it is checked at once."""

    def __init__(self, redis: RedisModel, *, one_cursor: bool) -> None:
        self.redis = redis
        self.one_cursor = one_cursor
        self.tracks: dict[str, Track] = {}
        self.last_id: int | None = None
        self.room = 1_000
        self.process: Process | None = None
        self.subscription: Subscription | None = None
        self.problems: list[str] = []

    # Coming and going

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
            track.came = self.redis.issued
            track.ready = False
            track.anew = cursor is None
            track.begins = isinstance(begin[name], str)
            track.position = cursor if cursor is not None else since if isinstance(since, int) else None
            track.snapshot = self.redis.cuts[name] if begin[name] == "last" and self.redis.holds(name) else None
        self.process.feed.follow(self.subscription, begin)

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

    # What it is told

    def take(self, subscription: Subscription, data: bytes) -> None:
        if subscription is not self.subscription:
            self.problems.append(f"written after it left: {data!r}")
            return
        try:
            self.check(*(parse_block(data) if self.one_cursor else (None, json.loads(data))))
        except AssertionError as error:
            self.problems.append(f"{error} at {data!r}")
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
        # Who asked for nothing old stands, until the first message says where, somewhere behind the moment it came.
        position = track.came if track.position is None else track.position
        missing = {event.id for event in self.redis.ledger[name].values() if event.id > position and event.gone and not event.collapsed}
        assert missing - track.received or position <= self.redis.lossy, f"a gap of {name} where nothing is missing"
        track.excused |= missing

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

    def check_complete(self, name: str, end: int) -> None:
        track = self.tracks[name]
        position = track.position or 0
        mine = self.subscription.cursors.get(name) if self.subscription else None
        if track.begins or position < EARLIEST or (mine is not None and mine.position < EARLIEST):
            # It asked for what the log holds, or for the newest of it, and need not be told what Redis had lost by then.
            position = max(position, self.redis.lossy)
        if track.anew:
            position = max(position, min(self.redis.lossy, track.came))
        known = track.excused | track.received
        lost = [e.id for e in self.redis.ledger[name].values() if position < e.id <= end and not e.collapsed and e.id not in known]
        assert not lost, f"{lost} of {name} lost in silence"


STEPS_KNOWN: dict[str, st.SearchStrategy[tuple[str, dict[str, Any]]]] = {}
WEIGHTED: list[str] = []


def step(weight: int, **arguments: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """A step that is taken so often. Hypothesis's own rules are switched off by the dozen, or repeated, in each example."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__
        STEPS_KNOWN[name] = st.tuples(st.just(name), st.fixed_dictionaries(arguments))
        WEIGHTED.extend([name] * weight)
        return function

    return register


def any_step() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.sampled_from(WEIGHTED).flatmap(lambda name: STEPS_KNOWN[name])


class Model(RuleBasedStateMachine):
    """Steps, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.redis = RedisModel(CHANNELS)
        self.processes = [Process(self.redis), Process(self.redis)]
        for process in self.processes:
            process.connect()
        self.clients = [Client(self.redis, one_cursor=one_cursor) for one_cursor in (True, False, True, False)]
        self.published = 0

    def client(self, which: int, *, here: bool) -> Client | None:
        found = [client for client in self.clients if (client.subscription is not None) is here]
        return found[which % len(found)] if found else None

    # Workers and Redis

    @step(
        8, channel=st.sampled_from(CHANNELS), count=st.sampled_from([1, 1, 1, 2, 5]), keep=st.sampled_from([1, 3, 5]), final=st.booleans()
    )
    def publish(self, channel: str, count: int, keep: int, final: bool) -> None:
        for _ in range(count):
            self._publish(channel, keep, final=final)

    @step(4, channel=st.sampled_from(CHANNELS), count=st.integers(1, 3), label=st.sampled_from("pq"))
    def publish_progress(self, channel: str, count: int, label: str) -> None:
        for _ in range(count):
            self._publish(channel, 3, collapse=label)

    def _publish(self, channel: str, keep: int, *, final: bool = False, collapse: str = "") -> None:
        self.redis.time += 10
        self.published += 1
        self.redis.publish(channel, self.published, final=final, keep=keep, collapse=collapse)

    @step(1, channel=st.sampled_from(CHANNELS), junk=st.sampled_from([b"junk", b'{"type":"live"}', b"99 x"]), recorded=st.booleans())
    def publish_junk(self, channel: str, junk: bytes, recorded: bool) -> None:
        if recorded:
            self.redis.logs[channel].append(junk)
        else:
            self.redis.announce(channel, junk)

    @step(2, channel=st.sampled_from(CHANNELS))
    def expire_or_evict(self, channel: str) -> None:
        self.redis.cut(channel)

    @step(1, back=st.integers(1, 1_000))
    def set_clock_back(self, back: int) -> None:
        self.redis.set_clock_back(back)

    @step(1)
    def save(self) -> None:
        self.redis.save()

    @step(1, keeps_all=st.booleans())
    def restart(self, keeps_all: bool) -> None:
        self.redis.restart(keeps_all=keeps_all)

    @step(1)
    def flush(self) -> None:
        self.redis.flush()

    # The connections of the processes

    @step(8, which=st.integers(0, 1), count=st.integers(1, 4))
    def deliver(self, which: int, count: int) -> None:
        with inside(self.loop):
            self.processes[which].deliver(count)

    @step(4, which=st.integers(0, 1))
    def send_commands(self, which: int) -> None:
        self.processes[which].send()

    @step(1, which=st.integers(0, 1))
    def kill_connection(self, which: int) -> None:
        if connection := self.processes[which].connection:
            connection.alive = False

    @step(1, which=st.integers(0, 1))
    def lose_connection(self, which: int) -> None:
        with inside(self.loop):
            self.processes[which].lose()

    @step(8, which=st.integers(0, 1))
    def notice_loss(self, which: int) -> None:
        connection = self.processes[which].connection
        if connection is not None and not connection.alive:
            self.lose_connection(which)

    @step(8, which=st.integers(0, 1))
    def reconnect(self, which: int) -> None:
        if self.processes[which].connection is None:
            self.processes[which].connect()

    @step(8, which=st.integers(0, 1), request=st.integers(0, 3), count=st.integers(1, 3))
    def run_reads(self, which: int, request: int, count: int) -> None:
        self.processes[which].run_reads(request, count)

    @step(8, which=st.integers(0, 1), request=st.integers(0, 3))
    def answer_read(self, which: int, request: int) -> None:
        with inside(self.loop):
            self.processes[which].answer(request)

    @step(1, which=st.integers(0, 1))
    def fail_reads(self, which: int) -> None:
        with inside(self.loop):
            self.processes[which].fail()

    @step(14, which=st.integers(0, 1), times=st.sampled_from([1, 1, 2]))
    def flow(self, which: int, times: int) -> None:
        """What is on its way to and from one process arrives, as it mostly does."""
        for _ in range(times):
            self._flow(self.processes[which])
            for _ in range(4):
                self.loop.turn()

    @step(2, seconds=st.sampled_from([0.3, 1.5]))
    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds

    @step(1, which=st.integers(0, 1))
    def sweep(self, which: int) -> None:
        with inside(self.loop):
            self.processes[which].feed.sweep(float("inf"))

    # Clients

    @step(
        8,
        which=st.integers(0, 3),
        process=st.integers(0, 1),
        channels=st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]),
        since=st.sampled_from(["last", "now", 0]),
        room=st.sampled_from([1, 3, 1_000]),
    )
    def come(self, which: int, process: int, channels: list[str], since: Since, room: int) -> None:
        client = self.client(which, here=False)
        if client is None:
            return
        # One who comes back with a cursor for all comes back to the channels it is a cursor of.
        names = sorted(client.tracks) if client.tracks and client.last_id is not None else channels
        client.tracks = {name: track for name, track in client.tracks.items() if name in names}
        with inside(self.loop):
            client.come(self.processes[process], dict.fromkeys(names, since), room)

    @step(3, which=st.integers(0, 3), channel=st.sampled_from(CHANNELS), since=st.sampled_from(["last", "now", 0]))
    def subscribe(self, which: int, channel: str, since: Since) -> None:
        client = self.client(which, here=True)
        if client is not None and not client.one_cursor:
            client.tracks.pop(channel, None)
            with inside(self.loop):
                client.add({channel: since})

    @step(2, which=st.integers(0, 3), channel=st.sampled_from(CHANNELS))
    def unsubscribe(self, which: int, channel: str) -> None:
        client = self.client(which, here=True)
        if client is not None and not client.one_cursor:
            with inside(self.loop):
                client.remove(channel)

    @step(5, which=st.integers(0, 3))
    def go(self, which: int) -> None:
        if client := self.client(which, here=True):
            with inside(self.loop):
                client.go()

    @step(1, which=st.integers(0, 3))
    def pause(self, which: int) -> None:
        if (client := self.client(which, here=True)) and client.subscription:
            with inside(self.loop):
                client.subscription.pause()

    @step(4, which=st.integers(0, 3), room=st.sampled_from([1, 3, 1_000]))
    def resume(self, which: int, room: int) -> None:
        if (client := self.client(which, here=True)) and client.subscription and client.subscription.full:
            client.room = room
            with inside(self.loop):
                client.subscription.resume()

    # What must hold

    @rule(chosen=any_step(), turns=st.sampled_from([0, 0, 1, 3]))
    def act(self, chosen: tuple[str, dict[str, Any]], turns: int) -> None:
        name, arguments = chosen
        getattr(self, name)(**arguments)
        for _ in range(turns):
            self.loop.turn()

    @invariant()
    def nobody_was_told_wrong(self) -> None:
        for client in self.clients:
            assert not client.problems, client.problems

    @step(1)
    def settle(self) -> None:
        """All that is on its way arrives, and nothing new happens."""
        for _ in range(60):
            if self._calm():
                break
            self._ease()
        else:
            raise AssertionError("it does not settle")
        self.nobody_was_told_wrong()
        for client in self.clients:
            if client.subscription is not None:
                assert client.subscription.live
                for name, track in client.tracks.items():
                    assert track.ready, f"never told that {name} is ready"
                    client.check_complete(name, self.redis.issued)

    def _calm(self) -> bool:
        return all(
            p.connection is not None
            and p.connection.alive
            and not (p.connection.stream or p.requests or p.tasks.running or p.feed.listener._to_send)
            for p in self.processes
        ) and all(c.subscription is None or not c.subscription.full for c in self.clients)

    def _ease(self) -> None:
        with inside(self.loop):
            for process in self.processes:
                if process.connection is None or not process.connection.alive:
                    process.lose()
                    process.connect()
            for client in self.clients:
                if client.subscription is not None and client.subscription.full:
                    client.room = 1_000
                    client.subscription.resume()
        for process in self.processes:
            self._flow(process)
        self.loop.now += 1.5
        for _ in range(8):
            self.loop.turn()

    def _flow(self, process: Process) -> None:
        with inside(self.loop):
            process.send()
            process.deliver(len(process.connection.stream) if process.connection else 0)
            for _ in range(len(process.requests)):
                process.run_reads(0, 1_000)
                process.answer(0)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for process in self.processes:
                with inside(self.loop):
                    process.fail()
                for task in process.tasks.running | process.feed.reads._tasks:
                    task.cancel()
            for _ in range(5):
                self.loop.turn()
            self.loop.close()


def test_the_contract_holds_in_every_interleaving(monkeypatch: pytest.MonkeyPatch) -> None:
    long = STEPS > 2_000
    logging.getLogger("gateway").setLevel(logging.CRITICAL)  # junk is warned of, each time
    monkeypatch.setattr(subscription_module, "QUEUE_BYTES", 200)  # three events or four
    chosen = settings(
        max_examples=max(1, STEPS // STEPS_OF_ONE),
        stateful_step_count=STEPS_OF_ONE,
        derandomize=not long,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, *([] if os.environ.get("MODEL_NO_SHRINK") else [Phase.shrink])],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Model, settings=chosen)
