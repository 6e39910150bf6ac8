"""Publishers shared by threads, tasks, event loops and forked processes, and calls that are interrupted."""

import asyncio
import gc
import itertools
import multiprocessing
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from notify_client import AsyncPublisher, Publisher
from notify_client.exchange import PublisherCore
from notify_client.publisher import CONNECTIONS

from clients.python.tests.common import soon, timed
from tests.support.waiting import eventually

OWN_LINES = tuple(f"notify_client/{name}.py" for name in ("publisher", "exchange", "outage", "command", "connection"))


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


async def test_queued_tasks_wait_for_a_hung_server_together_and_not_in_turn(mute):
    async with AsyncPublisher(mute) as publisher:
        began = time.perf_counter()
        ids = await asyncio.gather(*(publisher.publish("jobs:1", "a") for _ in range(500)))

    assert set(ids) == {None}
    assert time.perf_counter() - began < soon(1)


async def test_a_cancelled_publish_does_not_leave_its_reply_to_the_next(valkey):
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


async def test_a_probe_that_is_cancelled_lets_the_next_call_probe(valkey):
    async with AsyncPublisher(valkey.url, timeout=2) as publisher:
        valkey.hang()
        assert await publisher.publish("jobs:1", "a") is None
        probe = None
        deadline = time.monotonic() + 30
        while probe is None and time.monotonic() < deadline:
            attempt = asyncio.create_task(publisher.publish("jobs:1", "a"))
            await asyncio.sleep(0.02)
            probe = None if attempt.done() else attempt
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        valkey.go_on()

        assert await publisher.publish("jobs:1", "b")


async def test_a_task_that_was_cancelled_publishes_its_end_and_drops_it_if_redis_hangs(mute, monkeypatch):
    class Timeout311(asyncio.Timeout):  # as in Python 3.11.0 to 3.11.2
        async def __aenter__(self):
            await super().__aenter__()
            self._cancelling = 0
            return self

    monkeypatch.setattr(asyncio, "timeout_at", Timeout311)
    monkeypatch.setattr(asyncio, "timeout", lambda delay: Timeout311(asyncio.get_running_loop().time() + delay))
    monkeypatch.setattr("redis.asyncio.connection.async_timeout", asyncio.timeout)

    async def work(publisher):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await publisher.publish("jobs:1", "failed", final=True, key="k")

    async with AsyncPublisher(mute, timeout=0.3) as publisher:
        task = asyncio.create_task(work(publisher))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        assert not task.cancelled()
        assert task.result() is None
        assert publisher.dropped == 1


async def test_a_publish_can_be_cancelled_at_any_moment(valkey):
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
    publisher = AsyncPublisher(valkey.url, timeout=10)

    ids = [asyncio.run(publisher.publish("jobs:1", "a")) for _ in range(3)]
    dropped = publisher.dropped
    del publisher
    gc.collect()  # the connections of a loop that has ended are nobody's to close

    assert None not in ids
    assert dropped == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_asyncio_publisher_can_be_closed_after_its_loop(valkey):
    publisher = AsyncPublisher(valkey.url, timeout=10)
    assert asyncio.run(publisher.publish("jobs:1", "a")) is not None

    asyncio.run(publisher.close())
    gc.collect()

    assert eventually(lambda: valkey.redis.info("clients")["connected_clients"] == 1)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_loop_after_the_other_may_have_more_to_publish_than_there_are_connections(valkey):
    publisher = AsyncPublisher(valkey.url, timeout=10)

    async def publish_many(publisher):
        return await asyncio.gather(*(publisher.publish("jobs:1", "a") for _ in range(3 * CONNECTIONS)))

    ids = [id for _ in range(2) for id in asyncio.run(publish_many(publisher))]
    del publisher
    gc.collect()

    assert None not in ids
    assert len(set(ids)) == 6 * CONNECTIONS


def test_event_loops_in_several_threads_may_use_one_asyncio_publisher_at_once(valkey):
    publisher = AsyncPublisher(valkey.url, timeout=10)

    async def publish_many():
        ids = [await publisher.publish("jobs:1", "a") for _ in range(30)]
        await publisher.close()
        return ids

    with ThreadPoolExecutor(4) as threads:
        ids = [id for group in threads.map(lambda _: asyncio.run(publish_many()), range(4)) for id in group]

    assert None not in ids
    assert len(set(ids)) == 120


def publish_in_child_with_asyncio(publisher):
    asyncio.run(publisher.publish("jobs:1", "child"))
    gc.collect()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("running", [True, False], ids=["in its event loop", "between two runs of it"])
def test_a_forked_child_that_publishes_with_asyncio_does_not_stop_its_parent_from_hearing_replies(valkey, running):
    publisher = AsyncPublisher(valkey.url, timeout=10)

    async def fork():
        child = multiprocessing.get_context("fork").Process(target=publish_in_child_with_asyncio, args=(publisher,))
        child.start()
        child.join(30)
        return child.exitcode

    with asyncio.Runner() as runner:
        runner.run(publisher.publish("jobs:1", "parent"))
        ended = runner.run(fork()) if running else asyncio.run(fork())
        id = runner.run(publisher.publish("jobs:1", "parent"))
        runner.run(publisher.close())

    assert (ended, len(valkey.log())) == (0, 3)
    assert id is not None


class Interrupted(Exception):
    """Like Celery's soft time limit, which is raised in the middle of any code."""


def test_an_interrupt_is_raised_and_does_not_leave_its_reply_to_the_next(valkey):
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


@pytest.mark.parametrize("ready", [False, True], ids=["url", "client"])
def test_an_interrupt_between_a_command_and_its_reply_does_not_leave_the_reply_to_the_next(valkey, monkeypatch, ready):
    def interrupt(*_arguments, **_options):
        raise Interrupted

    client = redis.Redis(port=valkey.port) if ready else None
    with Publisher(None if ready else valkey.url, client=client, timeout=10) as publisher, ThreadPoolExecutor(1) as threads:
        publisher.publish("jobs:1", "a")
        valkey.hang()
        with monkeypatch.context() as patched:
            patched.setattr(redis.Redis, "parse_response", interrupt)
            with pytest.raises(Interrupted):
                publisher.publish("jobs:1", "interrupted")
        publishing = threads.submit(publisher.publish, "jobs:1", "b")
        time.sleep(0.1)  # until it waits for its answer
        valkey.go_on()
        ids = [publishing.result(), publisher.publish("jobs:1", "b")]

    entries = valkey.redis.lrange("notify:log:{jobs:1}", 0, -1)
    assert [entry.split(b" ")[0].decode() for entry in entries if b'"b"' in entry] == ids
    if client is not None:
        client.close()


def test_no_word_of_a_command_is_a_number_for_hiredis_to_crash_at_while_a_signal_handler_raises():
    core = PublisherCore("notify", 65_536, 1, None)
    publishing = core.publish("jobs:1", "a", None, final=False, key="k", keep=5, ttl=7, collapse="c")
    command = next(publishing)
    publishing.close()

    assert {type(word) for word in command} == {str, bytes}


@pytest.mark.parametrize("address", ["valkey", "refused"])
def test_a_signal_handler_may_publish_at_any_moment_of_a_publish(address, request):
    """Each line of the publisher's code, and of ``threading``, is such a moment; it would hang at a lock that its own thread holds."""
    found = request.getfixturevalue(address)
    publisher = Publisher(getattr(found, "url", found), timeout=10)
    done = []

    def publish_within(moment):
        lines = itertools.count()

        def trace(frame, event, _):
            if event == "line" and frame.f_code.co_filename.endswith((*OWN_LINES, "threading.py")) and next(lines) == moment:
                sys.settrace(None)
                publisher.publish("jobs:1", "within")
                done.append(moment)
            return trace

        sys.settrace(trace)
        try:
            publisher.publish("jobs:1", "a")
        finally:
            sys.settrace(None)

    def publish_within_each():
        for moment in itertools.count():
            publish_within(moment)
            if len(done) == moment:
                return  # the publish was over before

    thread = threading.Thread(target=publish_within_each, daemon=True)
    thread.start()
    thread.join(60)

    assert not thread.is_alive()
    assert len(done) > 50
    publisher.close()


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


@pytest.mark.parametrize("parser", ["_HiredisParser", "_RESP2Parser"])  # the latter where hiredis is not installed
def test_a_publish_whose_connection_another_thread_closes_is_dropped(valkey, parser):
    with Publisher(valkey.url, timeout=30) as publisher, ThreadPoolExecutor(1) as threads:
        pool = publisher._client.connection_pool
        pool.connection_kwargs["parser_class"] = getattr(redis._parsers, parser)
        publisher.publish("jobs:1", "a")
        valkey.hang()
        publishing = threads.submit(publisher.publish, "jobs:1", "b")
        eventually(lambda: pool._in_use_connections)
        time.sleep(0.1)  # until it waits for its answer

        publisher.close()

        assert publishing.result() is None
        assert publisher.dropped == 1
        valkey.go_on()
        assert publisher.publish("jobs:1", "c", key="c") is not None


def test_threads_wait_for_a_hung_server_together_and_not_in_turn(mute):
    with Publisher(mute) as publisher, ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda _: timed(publisher.publish, "jobs:1", "a"), range(64)))

    assert publisher.dropped == 64
    assert max(seconds for _, seconds in results) < soon(1)
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_a_thread_was_taking_a_connection_publishes(valkey):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    taking, forked = threading.Event(), threading.Event()

    def take(publisher):
        with publisher._client.connection_pool._lock:
            taking.set()
            forked.wait(10)

    with Publisher(valkey.url, timeout=5) as publisher:
        publisher.publish("jobs:1", "parent", 0)
        thread = threading.Thread(target=take, args=(publisher,))
        thread.start()
        taking.wait(10)
        child = context.Process(target=publish_in_child, args=(publisher, results, 0))
        child.start()
        forked.set()
        thread.join()
        child.join(10)
        hung = child.is_alive()
        child.kill()
        child.join()

        assert not hung
        assert None not in results.get()
