"""What docs/protocol.md promises, held against every interleaving that chance can think of.

Two gateway processes stand before a model of Redis. What the steps do is what life does: publish, collapse, trim, expire, lose
data, restart; deliver an announcement late or lose it with the connection; run a read and answer it later; let a client's
writer fill up; subscribe, unsubscribe, go away and come back to the other process with a cursor. The clients check:

- each recorded event after the cursor comes once, in order of id, or a gap notice comes before any later event;
- over all channels of a client with one cursor (SSE) the same holds, so that this cursor is true at any moment;
- no gap is told where nothing can be missing;
- once everything has settled, every client is live, was told ``ready``, and has everything or was told.

The normal run makes 2,000 steps chosen by hypothesis and 20,000 of seeded random walks, the same ones each time. More, and
other ones (walks make about 10,000 steps a second; hypothesis is ten times slower, and makes a tenth as many):

    MODEL_STEPS=1000000 MODEL_SEED=7 uv run pytest tests/core/test_model.py --timeout 0
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.core import subscription
from gateway.core.page import Since
from tests.core.model_clients import Client
from tests.core.model_processes import Process, VirtualLoop, inside
from tests.core.redis_model import RedisModel

CHANNELS = ["a", "b", "c"]
STEPS = int(os.environ.get("MODEL_STEPS", "20000"))
SEED = int(os.environ.get("MODEL_SEED", "0"))
STEPS_OF_ONE = 200
TURNS = [0, 0, 1, 3]  # of the event loop, after a step

Step = tuple[str, dict[str, Any]]
ARGUMENTS: dict[str, dict[str, Sequence[Any]]] = {}
WEIGHTED: list[str] = []


def step(weight: int, **arguments: Sequence[Any]) -> Callable[[Any], Any]:
    """A step that is taken so often, and what each of its arguments may be."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        ARGUMENTS[function.__name__] = arguments
        WEIGHTED.extend([function.__name__] * weight)
        return function

    return register


def any_step() -> st.SearchStrategy[Step]:
    # One rule for all: of many rules hypothesis switches off most in each example, and repeats the rest.
    known = {
        name: st.tuples(st.just(name), st.fixed_dictionaries({key: st.sampled_from(values) for key, values in arguments.items()}))
        for name, arguments in ARGUMENTS.items()
    }
    return st.sampled_from(WEIGHTED).flatmap(lambda name: known[name])


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

    @step(8, channel=CHANNELS, count=[1, 1, 1, 2, 5], keep=[1, 3, 5], final=[False, True])
    def publish(self, channel: str, count: int, keep: int, final: bool) -> None:
        for _ in range(count):
            self._publish(channel, keep, final=final)

    @step(4, channel=CHANNELS, count=range(1, 4), label=("p", "q"))
    def publish_progress(self, channel: str, count: int, label: str) -> None:
        for _ in range(count):
            self._publish(channel, 3, collapse=label)

    def _publish(self, channel: str, keep: int, *, final: bool = False, collapse: str = "") -> None:
        self.redis.time += 10
        self.published += 1
        self.redis.publish(channel, self.published, final=final, keep=keep, collapse=collapse)

    @step(1, channel=CHANNELS, junk=[b"junk", b'{"type":"live"}', b"99 x"], recorded=[False, True])
    def publish_junk(self, channel: str, junk: bytes, recorded: bool) -> None:
        if recorded:
            self.redis.logs[channel].append(junk)
        else:
            self.redis.announce(channel, junk)

    @step(2, channel=CHANNELS)
    def expire_or_evict(self, channel: str) -> None:
        self.redis.cut(channel)

    @step(1, back=range(1, 1001))
    def set_clock_back(self, back: int) -> None:
        self.redis.set_clock_back(back)

    @step(1)
    def save(self) -> None:
        self.redis.save()

    @step(1, keeps_all=[False, True])
    def restart(self, keeps_all: bool) -> None:
        self.redis.restart(keeps_all=keeps_all)

    @step(1)
    def flush(self) -> None:
        self.redis.flush()

    # The connections of the processes

    @step(8, which=range(2), count=range(1, 5))
    def deliver(self, which: int, count: int) -> None:
        with inside(self.loop):
            self.processes[which].deliver(count)

    @step(4, which=range(2))
    def send_commands(self, which: int) -> None:
        self.processes[which].send()

    @step(1, which=range(2))
    def kill_connection(self, which: int) -> None:
        if connection := self.processes[which].connection:
            connection.alive = False

    @step(1, which=range(2))
    def lose_connection(self, which: int) -> None:
        with inside(self.loop):
            self.processes[which].lose()

    @step(8, which=range(2))
    def notice_loss(self, which: int) -> None:
        connection = self.processes[which].connection
        if connection is not None and not connection.alive:
            self.lose_connection(which)

    @step(8, which=range(2))
    def reconnect(self, which: int) -> None:
        if self.processes[which].connection is None:
            self.processes[which].connect()

    @step(8, which=range(2), request=range(4), count=range(1, 4))
    def run_reads(self, which: int, request: int, count: int) -> None:
        self.processes[which].run_reads(request, count)

    @step(8, which=range(2), request=range(4))
    def answer_read(self, which: int, request: int) -> None:
        with inside(self.loop):
            self.processes[which].answer(request)

    @step(1, which=range(2))
    def fail_reads(self, which: int) -> None:
        with inside(self.loop):
            self.processes[which].fail()

    @step(14, which=range(2), times=[1, 1, 2])
    def flow(self, which: int, times: int) -> None:
        """What is on its way to and from one process arrives, as it mostly does."""
        for _ in range(times):
            self._flow(self.processes[which])
            for _ in range(4):
                self.loop.turn()

    @step(2, seconds=[0.3, 1.5])
    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds

    @step(1, which=range(2))
    def sweep(self, which: int) -> None:
        with inside(self.loop):
            self.processes[which].feed.sweep(float("inf"))
            self.processes[which].feed.reads.sweep()

    # Clients

    @step(
        8,
        which=range(4),
        process=range(2),
        channels=[["a"], ["a", "b"], ["a", "b", "c"]],
        since=["last", "now", 0],
        room=[1, 3, 1_000],
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

    @step(3, which=range(4), channel=CHANNELS, since=["last", "now", 0])
    def subscribe(self, which: int, channel: str, since: Since) -> None:
        client = self.client(which, here=True)
        if client is not None and not client.one_cursor:
            with inside(self.loop):
                client.ask(channel, since)

    @step(2, which=range(4), channel=CHANNELS)
    def unsubscribe(self, which: int, channel: str) -> None:
        client = self.client(which, here=True)
        if client is not None and not client.one_cursor:
            with inside(self.loop):
                client.remove(channel)

    @step(5, which=range(4))
    def go(self, which: int) -> None:
        if client := self.client(which, here=True):
            with inside(self.loop):
                client.go()

    @step(1, which=range(4))
    def pause(self, which: int) -> None:
        if (client := self.client(which, here=True)) and client.subscription:
            with inside(self.loop):
                client.subscription.pause()

    @step(4, which=range(4), room=[1, 3, 1_000])
    def resume(self, which: int, room: int) -> None:
        if (client := self.client(which, here=True)) and client.subscription and client.subscription.full:
            client.room = room
            with inside(self.loop):
                client.subscription.resume()

    # What must hold

    def do(self, chosen: tuple[str, dict[str, Any]], turns: int) -> None:
        name, arguments = chosen
        getattr(self, name)(**arguments)
        for _ in range(turns):
            self.loop.turn()

    @rule(chosen=any_step(), turns=st.sampled_from(TURNS))
    def act(self, chosen: tuple[str, dict[str, Any]], turns: int) -> None:
        self.do(chosen, turns)

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


Walk = list[tuple[Step, int]]


def problem_of(walk: Walk) -> str | None:
    """What does not hold on this walk."""
    model = Model()
    try:
        try:
            for chosen, turns in walk:
                model.do(chosen, turns)
                model.nobody_was_told_wrong()
        finally:
            model.teardown()
    except AssertionError as error:
        return str(error)
    return None


def shortest(walk: Walk) -> Walk:
    """The walk without the steps that are not needed for it to fail."""
    size = len(walk) // 2
    while size:
        at = 0
        while at < len(walk):
            shorter = walk[:at] + walk[at + size :]
            if problem_of(shorter):
                walk = shorter
            else:
                at += size
        size //= 2
    return walk


def random_walk(seed: int) -> Walk:
    chance = random.Random(seed)
    names = [chance.choice(WEIGHTED) for _ in range(STEPS_OF_ONE)]
    return [((name, {key: chance.choice(values) for key, values in ARGUMENTS[name].items()}), chance.choice(TURNS)) for name in names]


@pytest.fixture(autouse=True)
def small_and_silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(subscription, "QUEUE_BYTES", 200)  # three events or four
    monkeypatch.setattr(subscription, "TURN_BYTES", 100)  # two events or three
    logging.getLogger("gateway").setLevel(logging.CRITICAL)  # junk is warned of, each time
    yield
    logging.getLogger("gateway").setLevel(logging.NOTSET)


def test_the_contract_holds_in_every_interleaving() -> None:
    chosen = settings(
        max_examples=max(1, STEPS // 10 // STEPS_OF_ONE),
        stateful_step_count=STEPS_OF_ONE,
        derandomize=not SEED,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Model, settings=chosen)


def test_the_contract_holds_on_random_walks() -> None:
    for seed in range(SEED, SEED + STEPS // STEPS_OF_ONE):
        if problem_of(random_walk(seed)):
            walk = shortest(random_walk(seed))
            pytest.fail("\n".join([f"seed {seed}:", *map(str, walk), str(problem_of(walk))]))
