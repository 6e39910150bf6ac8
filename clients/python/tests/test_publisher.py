"""Both publishers against real servers: what is recorded, what is dropped, and that nobody waits."""

import asyncio
import gc
import json
import logging
import multiprocessing
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest
import redis
import redis.asyncio
from notify_client import AsyncPublisher, Publisher
from notify_client.publisher import CONNECTIONS

LIMIT = 0.5
SLACK = 0.5  # of a shared, busy machine


class Twin:
    """AsyncPublisher with the methods of Publisher, on a loop of its own."""

    def __init__(self, *args, **kwargs):
        self._runner = asyncio.Runner()
        self._publisher = AsyncPublisher(*args, **kwargs)

    @property
    def dropped(self):
        return self._publisher.dropped

    def publish(self, *args, **kwargs):
        return self._runner.run(self._publisher.publish(*args, **kwargs))

    def live(self, *args, **kwargs):
        return self._runner.run(self._publisher.live(*args, **kwargs))

    def close(self):
        self._runner.run(self._publisher.close())
        self._runner.close()


@pytest.fixture(params=[Publisher, Twin], ids=["threads", "asyncio"])
def connect(request):
    made = []

    def make(*args, **kwargs):
        made.append(request.param(*args, **kwargs))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


def timed(call, *args, **kwargs):
    began = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - began


def publish_until_taken(publisher, seconds=5):
    deadline = time.monotonic() + seconds
    while (id := publisher.publish("jobs:1", "probe")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return id


def test_the_script_is_the_gateways():
    ours = resources.files("notify_client").joinpath("publish.lua").read_bytes()
    gateways = Path(__file__).parents[3] / "gateway" / "store" / "publish.lua"

    assert ours == gateways.read_bytes()


def test_an_event_is_recorded_and_its_id_returned(connect, valkey):
    publisher = connect(valkey.url)

    id = publisher.publish("jobs:1", "progress", {"percent": 40, "näme": "\u2028<\n"})
    last = publisher.publish("jobs:1", "completed", final=True)

    assert valkey.log() == [
        '{"type":"progress","data":{"percent":40,"näme":"\u2028<\\n"}}'.encode(),
        b'{"type":"completed","data":null,"final":true}',
    ]
    assert int(id) < int(last)
    assert (valkey.calls("fcall"), valkey.calls("eval"), publisher.dropped) == (2, 0, 0)


def test_every_option_reaches_redis(connect, valkey):
    publisher = connect(valkey.url)

    ids = [publisher.publish("jobs:1", "a", n, key=f"k{n}", keep=2, ttl=60, collapse="a" if n > 2 else None) for n in range(5)]

    assert [json.loads(event)["data"] for event in valkey.log()] == [2, 4]
    assert valkey.redis.ttl("notify:log:{jobs:1}") <= 60
    assert publisher.publish("jobs:1", "a", key="k0") == ids[0]


def test_a_live_event_is_sent_and_not_recorded(connect, valkey):
    publisher = connect(valkey.url)
    pubsub = valkey.redis.pubsub()
    pubsub.subscribe("notify:jobs:1")
    pubsub.get_message(timeout=1)

    assert publisher.live("jobs:1", "typing", {"by": "ann"}) == 1
    assert pubsub.get_message(timeout=1)["data"] == b'{"type":"typing","data":{"by":"ann"}}'
    assert publisher.live("jobs:2", "typing") == 0
    assert valkey.redis.dbsize() == 0
    pubsub.close()


def test_the_prefix_names_keys_and_function(connect, valkey):
    valkey.load("shop")
    publisher = connect(valkey.url, prefix="shop")

    publisher.publish("jobs:1", "a")

    assert len(valkey.log(prefix="shop")) == 1
    assert valkey.calls("fcall") == 1


@pytest.mark.parametrize("decode", [False, True])
def test_a_ready_client_is_used_and_left_open(valkey, decode):
    client = redis.Redis(port=valkey.port, decode_responses=decode)
    with Publisher(client=client) as publisher:
        assert isinstance(publisher.publish("jobs:1", "a"), str)

    assert client.ping()
    client.close()


async def test_a_ready_asyncio_client_is_used_and_left_open(valkey):
    client = redis.asyncio.Redis(port=valkey.port)
    async with AsyncPublisher(client=client) as publisher:
        assert isinstance(await publisher.publish("jobs:1", "a"), str)

    assert await client.ping()
    await client.aclose()


def nested(levels):
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize(
    ("words", "options", "problem"),
    [
        (("a b", "x"), {}, "channel 'a b': only letters, digits"),
        (("jobs:1\n", "x"), {}, r"channel 'jobs:1\\n'"),
        (("a" * 129, "x"), {}, "channel 'aaa"),
        ((7, "x"), {}, "channel 7"),
        (("c", "x y"), {}, "type 'x y': only letters, digits"),
        (("c", ""), {}, "type ''"),
        (("c", "x", float("nan")), {}, "data nan: it is not JSON"),
        (("c", "x", [float("inf")]), {}, "it is not JSON"),
        (("c", "x", {"a": "\ud800"}), {}, r"'\\ud800' is half of a character"),
        (("c", "x", {"\udfff": 1}), {}, "half of a character"),
        (("c", "x", b"bytes"), {}, "data b'bytes': it is not JSON"),
        (("c", "x", {(1, 2): 3}), {}, "it is not JSON"),
        (("c", "x", "é" * 32_768), {}, r"[0-9]+ bytes of JSON, at most 65536"),
        (("c", "x"), {"keep": 0}, "keep 0: a whole number from 1 to 10000"),
        (("c", "x"), {"keep": 10_001}, "keep 10001"),
        (("c", "x"), {"keep": True}, "keep True"),
        (("c", "x"), {"ttl": 2_592_001}, "ttl 2592001: a whole number from 1 to 2592000"),
        (("c", "x"), {"ttl": 1.5}, "ttl 1.5"),
        (("c", "x"), {"key": ""}, "key '': text of 1 to 512 bytes"),
        (("c", "x"), {"key": "é" * 257}, "key '"),
        (("c", "x"), {"collapse": "\ud800"}, "collapse "),
    ],
)
def test_a_wrong_argument_is_named_before_anything_goes_to_redis(connect, refused, words, options, problem):
    publisher = connect(refused)

    with pytest.raises(ValueError, match=problem):
        publisher.publish(*words, **options)
    assert publisher.dropped == 0


def test_data_that_contains_itself_is_refused(connect, refused):
    data: list = []
    data.append(data)

    with pytest.raises(ValueError, match="Circular reference"):
        connect(refused).publish("c", "x", data)


def test_what_redis_calls_invalid_is_a_value_error(connect, valkey):
    publisher = connect(valkey.url)

    with pytest.raises(ValueError, match=r"^the event is not JSON: .* too many nested"):
        publisher.publish("jobs:1", "x", nested(300))
    with pytest.raises(ValueError, match="at most 65536"):
        connect(valkey.url, max_event_bytes=100_000).publish("jobs:1", "x", "x" * 70_000)
    assert publisher.dropped == 0
    assert publisher.publish("jobs:1", "x")


@pytest.mark.parametrize(
    "options", [{}, {"url": "http://x"}, {"url": "redis://x?soket_timeout=1"}, {"url": "redis://x", "prefix": "a-b"}, {"timeout": 0}]
)
def test_a_wrong_setting_is_refused_at_once(connect, options):
    with pytest.raises(ValueError):
        connect(**options)


def test_an_old_server_runs_the_script(connect, old_redis):
    publisher = connect(old_redis.url)

    ids = [publisher.publish("jobs:1", "a", n, key="k" if n < 2 else None) for n in range(4)]

    assert ids[0] == ids[1] < ids[2] < ids[3]
    assert (old_redis.calls("eval"), old_redis.calls("evalsha")) == (1, 3)
    old_redis.redis.script_flush()
    assert publisher.publish("jobs:1", "a")
    assert publisher.dropped == 0


def test_the_script_runs_until_the_function_is_loaded(connect, valkey):
    valkey.redis.function_flush()
    publisher = connect(valkey.url)
    first = publisher.publish("jobs:1", "a", key="k")
    again = publisher.publish("jobs:1", "a", key="k")
    calls = valkey.calls("fcall")
    valkey.load()
    valkey.redis.script_flush()

    assert publisher.publish("jobs:1", "a", key="k") == again == first
    assert (calls, valkey.calls("fcall"), publisher.dropped) == (1, 2, 0)


def test_a_function_that_vanishes_is_replaced_by_the_script(connect, valkey):
    publisher = connect(valkey.url)
    publisher.publish("jobs:1", "a")
    valkey.redis.function_flush()

    assert publisher.publish("jobs:1", "a")
    assert publisher.dropped == 0


def test_an_old_server_that_became_a_new_one_is_called_by_function(connect, old_redis, valkey_program):
    publisher = connect(old_redis.url)
    publisher.publish("jobs:1", "a")
    publisher.publish("jobs:1", "a")
    old_redis.kill()
    old_redis.start(valkey_program)
    old_redis.load()

    assert publish_until_taken(publisher)
    assert publisher.publish("jobs:1", "a")
    assert old_redis.calls("fcall") == len(old_redis.log()) == 2


@pytest.mark.parametrize("address", ["refused", "mute", "black_hole"])
def test_nobody_waits_longer_than_the_timeout(connect, address, request):
    publisher = connect(request.getfixturevalue(address))

    first, seconds = timed(publisher.publish, "jobs:1", "a", key="k")
    later = [timed(publisher.publish, "jobs:1", "a") for _ in range(50)]

    assert first is None
    assert seconds < LIMIT + SLACK
    assert [id for id, _ in later if id] == []
    assert sorted(seconds for _, seconds in later)[25] < 0.001
    assert publisher.dropped == 51


def test_a_name_that_does_not_resolve_holds_nobody_up(connect, monkeypatch, until):
    closed = threading.Event()

    def hang(*_args, **_options):
        closed.wait(5)
        raise socket.gaierror("late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    publisher = connect("redis://redis.invalid")
    id, seconds = timed(publisher.publish, "jobs:1", "a")
    closed.set()

    assert id is None
    assert seconds < LIMIT + SLACK


def test_a_hung_server_holds_nobody_up_and_is_used_again_when_it_goes_on(connect, valkey):
    publisher = connect(valkey.url)
    publisher.publish("jobs:1", "before")
    valkey.hang()
    id, seconds = timed(publisher.publish, "jobs:1", "hung")
    fast = min(timed(publisher.publish, "jobs:1", "hung")[1] for _ in range(5))
    valkey.go_on()

    assert id is None
    assert seconds < LIMIT + SLACK
    assert fast < 0.001
    assert publish_until_taken(publisher)


def test_a_restart_between_two_publishes_drops_nothing(connect, valkey):
    publisher = connect(valkey.url)
    publisher.publish("jobs:1", "a")
    valkey.kill()
    valkey.start()

    assert publisher.publish("jobs:1", "b")
    assert publisher.dropped == 0


def test_events_are_dropped_while_redis_is_killed_and_taken_after(connect, valkey, caplog):
    dropped = []
    publisher = connect(valkey.url, on_drop=lambda *words: dropped.append(words[:2]))
    publisher.publish("jobs:1", "a")
    valkey.kill()
    with caplog.at_level(logging.WARNING, "notify_client"):
        for _ in range(20):
            assert publisher.publish("jobs:1", "lost") is None
        valkey.start()
        publish_until_taken(publisher)

    assert publisher.dropped == len(dropped) >= 20
    assert dropped[:20] == [("jobs:1", "lost")] * 20
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(texts) == 2
    assert texts[0].startswith("Redis takes no events, they are dropped: ConnectionError ")
    assert texts[1] == f"Redis takes events again, events dropped: {publisher.dropped}"


def test_a_callback_that_fails_does_not_fail_the_worker(connect, refused, caplog):
    publisher = connect(refused, on_drop=lambda *_: 1 / 0)

    assert publisher.publish("jobs:1", "a") is None
    assert "on_drop failed" in caplog.text


def test_closing_reports_what_was_dropped(refused, caplog):
    with Publisher(refused) as publisher:
        publisher.publish("jobs:1", "a")

    assert caplog.records[-1].getMessage() == "The publisher was closed, events dropped: 1"


REFUSALS = {
    "OOM": ("maxmemory", 1, 0),
    "NOREPLICAS": ("min-replicas-to-write", 1, 0),
}


@pytest.mark.parametrize("server", ["valkey", "old_redis"])
@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_is_a_drop_with_the_servers_code_and_no_ghost(connect, server, code, request, caplog):
    running = request.getfixturevalue(server)
    name, bad, good = REFUSALS[code]
    publisher = connect(running.url)
    publisher.publish("jobs:1", "a")
    pubsub = running.redis.pubsub()
    pubsub.subscribe("notify:jobs:1")
    pubsub.get_message(timeout=1)
    running.redis.config_set(name, bad)
    refused = [publisher.publish("jobs:1", "b", key="k") for _ in range(3)]
    running.redis.config_set(name, good)

    assert refused == [None] * 3
    assert publisher.dropped == 3
    assert pubsub.get_message(timeout=0.1) is None
    assert publisher.publish("jobs:1", "b", key="k")
    assert pubsub.get_message(timeout=1)["data"].endswith(b'{"type":"b","data":null}')
    assert len(running.log()) == 2
    assert f"they are dropped: {code} " in caplog.text
    assert "events dropped: 3" in caplog.text
    pubsub.close()


def test_a_replica_refuses_and_its_connections_are_left(connect, valkey, caplog):
    publisher = connect(valkey.url)
    publisher.publish("jobs:1", "a")
    before = valkey.redis.info("stats")["total_connections_received"]
    valkey.redis.replicaof("127.0.0.1", "1")
    refused = publisher.publish("jobs:1", "b")
    valkey.redis.replicaof("NO", "ONE")

    assert refused is None
    assert "they are dropped: READONLY " in caplog.text
    assert publisher.publish("jobs:1", "c")
    assert valkey.redis.info("stats")["total_connections_received"] == before + 1


def test_an_answer_lost_on_the_way_is_asked_for_again_with_the_key(connect, valkey, proxy):
    publisher = connect(proxy.url, timeout=10)
    publisher.publish("jobs:1", "a")
    proxy.lose = 1
    id = publisher.publish("jobs:1", "b", key="k")

    assert proxy.lost == 1
    assert len(valkey.log()) == 2
    assert publisher.publish("jobs:1", "b", key="k") == id
    assert publisher.dropped == 0


def test_an_answer_lost_on_the_way_is_not_asked_for_again_without_a_key(connect, valkey, proxy):
    publisher = connect(proxy.url)
    publisher.publish("jobs:1", "a")
    proxy.lose = 1

    assert publisher.publish("jobs:1", "b") is None
    assert publisher.dropped == 1
    assert len(valkey.log()) == 2


def test_an_answer_that_is_late_is_asked_for_again_with_the_key(connect, valkey, proxy):
    publisher = connect(proxy.url, timeout=1.5)
    publisher.publish("jobs:1", "a")
    proxy.hold = 1
    id, seconds = timed(publisher.publish, "jobs:1", "b", key="k")

    assert id is not None
    assert seconds >= 0.5
    assert (publisher.dropped, proxy.lost, len(valkey.log())) == (0, 1, 2)


def test_one_drop_does_not_cost_the_event_with_a_key_that_follows_it(connect, valkey, proxy):
    publisher = connect(proxy.url, timeout=1.5)
    proxy.hold = 1

    assert publisher.publish("jobs:1", "started") is None
    assert publisher.publish("jobs:1", "completed", final=True, key="end") is not None


def test_after_two_failures_an_event_with_a_key_waits_no_more_than_others(connect, mute):
    publisher = connect(mute)
    for key in ("a", "b"):
        publisher.publish("jobs:1", "completed", key=key)

    assert min(timed(publisher.publish, "jobs:1", "completed", key=str(n))[1] for n in range(5)) < 0.001


def test_a_publish_is_tried_no_more_than_twice(connect, valkey, proxy):
    publisher = connect(proxy.url, timeout=10)  # it is tried again only if a fifth of that is not over
    proxy.lose = 5

    assert publisher.publish("jobs:1", "b", key="k") is None
    assert proxy.lost == 2
    assert len(valkey.log()) == 1


def test_a_hundred_racing_threads_with_one_key_make_one_event(valkey):
    with Publisher(valkey.url, timeout=5) as publisher, ThreadPoolExecutor(100) as threads:
        gate = threading.Barrier(100)

        def race(number):
            gate.wait()
            return publisher.publish("jobs:1", "completed", number, key="k")

        ids = set(threads.map(race, range(100)))

    assert len(ids) == len(valkey.log()) == 1
    assert None not in ids


async def test_a_hundred_racing_tasks_with_one_key_make_one_event_over_few_connections(valkey):
    before = valkey.redis.info("stats")["total_connections_received"]
    async with AsyncPublisher(valkey.url, timeout=5) as publisher:
        ids = set(await asyncio.gather(*(publisher.publish("jobs:1", "completed", n, key="k") for n in range(100))))

    assert len(ids) == len(valkey.log()) == 1
    assert None not in ids
    assert valkey.redis.info("stats")["total_connections_received"] - before <= 16


async def test_tasks_in_a_queue_do_not_wait_for_a_hung_server_one_after_the_other(mute):
    async with AsyncPublisher(mute) as publisher:
        began = time.perf_counter()
        ids = await asyncio.gather(*(publisher.publish("jobs:1", "a") for _ in range(500)))

    assert set(ids) == {None}
    assert time.perf_counter() - began < LIMIT + 2 * SLACK


async def test_a_cancelled_publish_leaves_no_answer_to_the_next(valkey, until):
    async with AsyncPublisher(valkey.url, timeout=5) as publisher:
        await publisher.publish("jobs:1", "a")
        valkey.hang()
        task = asyncio.create_task(publisher.publish("jobs:1", "cancelled"))
        await asyncio.sleep(0.05)  # until it waits for its answer
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        valkey.go_on()
        ids = [await publisher.publish("jobs:1", "b", n) for n in range(5)]

    entries = valkey.redis.lrange("notify:log:{jobs:1}", 0, -1)
    recorded = [entry.split(b" ")[0].decode() for entry in entries if b'"b"' in entry]
    assert recorded == ids


async def test_a_probe_that_is_cancelled_lets_the_next_call_probe(valkey, until):
    async with AsyncPublisher(valkey.url) as publisher:
        valkey.hang()
        assert await publisher.publish("jobs:1", "a") is None
        probe = None
        deadline = time.monotonic() + 5
        while probe is None and time.monotonic() < deadline:
            attempt = asyncio.create_task(publisher.publish("jobs:1", "a"))
            await asyncio.sleep(0.02)
            probe = None if attempt.done() else attempt
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        valkey.go_on()

        assert await publisher.publish("jobs:1", "b")


async def test_a_publish_ends_when_it_is_cancelled_at_whatever_moment(valkey):
    ends = []
    async with AsyncPublisher(valkey.url, timeout=2) as publisher:  # long enough to be cancelled before it is over
        valkey.hang()
        for moment in range(40):
            attempt = asyncio.create_task(publisher.publish("jobs:1", "a"))
            for _ in range(moment):
                await asyncio.sleep(0)
            attempt.cancel()
            await asyncio.wait([attempt])
            ends.append(attempt.cancelled())
        valkey.go_on()

    assert all(ends)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_asyncio_publisher_serves_one_loop_after_the_other(valkey):
    publisher = AsyncPublisher(valkey.url)

    ids = [asyncio.run(publisher.publish("jobs:1", "a")) for _ in range(3)]
    dropped = publisher.dropped
    del publisher
    gc.collect()  # the connections of a loop that has ended are nobody's to close

    assert None not in ids
    assert dropped == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_loop_after_the_other_may_have_more_to_publish_than_there_are_connections(valkey):
    publisher = AsyncPublisher(valkey.url)

    async def publish_many(publisher):
        return await asyncio.gather(*(publisher.publish("jobs:1", "a") for _ in range(3 * CONNECTIONS)))

    ids = [id for _ in range(2) for id in asyncio.run(publish_many(publisher))]
    del publisher
    gc.collect()

    assert None not in ids
    assert len(set(ids)) == 6 * CONNECTIONS


class Interrupted(Exception):
    """As Celery's soft time limit: raised into the middle of whatever runs."""


def test_an_interrupt_goes_through_and_leaves_no_answer_to_the_next(valkey):
    def interrupt(*_):
        raise Interrupted

    with Publisher(valkey.url, timeout=10) as publisher:
        publisher.publish("jobs:1", "a")
        valkey.hang()
        previous = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            publisher.publish("jobs:1", "interrupted")
        signal.signal(signal.SIGALRM, previous)
        valkey.go_on()
        ids = [publisher.publish("jobs:1", "b", n) for n in range(3)]

        assert publisher.dropped == 0
    entries = valkey.redis.lrange("notify:log:{jobs:1}", 0, -1)
    assert [entry.split(b" ")[0].decode() for entry in entries if b'"b"' in entry] == ids


def test_threads_share_a_publisher(valkey):
    with Publisher(valkey.url, timeout=5) as publisher, ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda n: publisher.publish(f"jobs:{n % 8}", "a", n, keep=1000), range(400)))

    assert len(set(ids)) == 400
    assert sum(len(valkey.log(f"jobs:{n}")) for n in range(8)) == 400


def test_three_hundred_threads_that_publish_at_once_share_few_connections(valkey):
    before = valkey.redis.info("stats")["total_connections_received"]
    with Publisher(valkey.url, timeout=10) as publisher, ThreadPoolExecutor(300) as threads:
        gate = threading.Barrier(300)

        def publish(number):
            gate.wait()
            return publisher.publish(f"jobs:{number}", "a")

        ids = set(threads.map(publish, range(300)))

    assert len(ids) == 300
    assert None not in ids
    assert valkey.redis.info("stats")["total_connections_received"] - before <= 16


def test_threads_that_meet_a_hung_server_wait_once(mute):
    with Publisher(mute) as publisher, ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda _: timed(publisher.publish, "jobs:1", "a"), range(64)))

    assert publisher.dropped == 64
    assert max(seconds for _, seconds in results) < LIMIT + 2 * SLACK
    assert sum(seconds > 0.1 for _, seconds in results) <= 16


def publish_in_child(publisher, results, number):
    results.put([publisher.publish("jobs:1", "child", [number, n], keep=1000) for n in range(50)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_children_have_connections_of_their_own(valkey):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with Publisher(valkey.url, timeout=5) as publisher:
        own = [publisher.publish("jobs:1", "parent", 0)]
        children = [context.Process(target=publish_in_child, args=(publisher, results, number)) for number in range(3)]
        for child in children:
            child.start()
        own += [publisher.publish("jobs:1", "parent", n, keep=1000) for n in range(1, 50)]
        theirs = [results.get() for _ in children]
        for child in children:
            child.join()

    entries = valkey.redis.lrange("notify:log:{jobs:1}", 0, -1)
    ids = [id for group in (own, *theirs) for id in group]
    assert sorted(ids) == [entry.split(b" ")[0].decode() for entry in entries]
    assert len(ids) == 200


def test_a_child_forked_in_an_outage_tries_for_itself(valkey):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with Publisher(valkey.url, timeout=5) as publisher:
        valkey.kill()
        assert publisher.publish("jobs:1", "a") is None
        valkey.start()
        child = context.Process(target=publish_in_child, args=(publisher, results, 0))
        child.start()

        assert None not in results.get()
        child.join()
