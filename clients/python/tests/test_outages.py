"""Both publishers while Redis is away, hangs, refuses, or loses a reply: what is dropped, and that no call waits for long."""

import _thread
import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import uvloop
from notify_client import Publisher
from notify_client.connection import connect_within, make_async_client
from notify_client.outage import FIRST_WINDOW, JITTER

from clients.python.tests.common import LIMIT, publish_until_taken, soon, timed
from tests.support.hearing import hearing
from tests.support.threads import threads_in_vain
from tests.support.waiting import eventually

AT_ONCE = 0.02  # seconds, far less than any wait for Redis


@pytest.mark.parametrize("address", ["refused", "mute", "black_hole"])
def test_nobody_waits_longer_than_the_timeout(connect, address, request):
    publisher = connect(request.getfixturevalue(address), timeout=LIMIT)

    first, seconds = timed(publisher.publish, "jobs:1", "a", key="k")
    later = [timed(publisher.publish, "jobs:1", "a") for _ in range(50)]

    assert first is None
    assert seconds < soon()
    assert [id for id, _ in later if id] == []
    assert sorted(seconds for _, seconds in later)[25] < AT_ONCE
    assert publisher.dropped == 51


def test_a_write_to_a_connection_that_has_closed_is_an_error_of_redis_on_uvloop_too(valkey):
    async def write():
        async with make_async_client(valkey.url, 10) as client:
            connection = await client.connection_pool.get_connection()
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError):
                await connection.send_command("PING", check_health=False)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write())


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_host_name_that_does_not_resolve_delays_no_publish(connect, monkeypatch, scheme):
    closed = threading.Event()

    def hang(*_args, **_options):
        closed.wait(5)
        raise socket.gaierror("late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    publisher = connect(f"{scheme}://redis.invalid", timeout=LIMIT)
    id, seconds = timed(publisher.publish, "jobs:1", "a")
    closed.set()

    assert id is None
    assert seconds < soon()


def test_a_connection_that_comes_too_late_is_closed():
    late, let = socket.socket(), threading.Event()

    def connect():
        let.wait(30)
        return late

    with pytest.raises(TimeoutError):
        connect_within(0.01, connect)
    let.set()

    assert eventually(lambda: late.fileno() == -1)


def test_where_no_further_thread_may_be_started_it_connects_without_one(valkey, monkeypatch):
    def refuse(*_arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    with Publisher(valkey.url) as publisher:
        assert publisher.publish("jobs:1", "a")


def test_a_thread_that_finds_no_memory_delays_no_publish(valkey):
    with Publisher(valkey.url, timeout=LIMIT) as publisher, threads_in_vain():
        id, seconds = timed(publisher.publish, "jobs:1", "a")

    assert id is None
    assert seconds < soon()


def test_a_hung_server_delays_no_publish_and_is_used_again_when_it_resumes(connect, valkey):
    publisher = connect(valkey.url, timeout=LIMIT)
    publisher.publish("jobs:1", "before")
    valkey.hang()
    id, seconds = timed(publisher.publish, "jobs:1", "hung")
    fast = min(timed(publisher.publish, "jobs:1", "hung")[1] for _ in range(5))
    valkey.go_on()

    assert id is None
    assert seconds < soon()
    assert fast < AT_ONCE
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
    # Another test of this process may have set up the gateway's logging, which sums up repeated lines after a while.
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING and not hasattr(record, "is_sum")]
    assert len(texts) == 2
    assert texts[0].startswith("Redis takes no events, they are dropped: ConnectionError ")
    assert texts[1] == f"Redis takes events again, events dropped: {publisher.dropped}"


def test_an_address_that_no_server_can_have_is_logged_as_such_and_fails_no_worker(caplog):
    with Publisher("redis://redis..invalid") as publisher:
        assert publisher.publish("jobs:1", "a") is None

    assert "they are dropped: ConnectionError Unicode" in caplog.text  # it cannot be written as the name of a host


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
    told = []
    publisher = connect(running.url, timeout=10, on_drop=lambda *event: told.append(event[:2]))
    publisher.publish("jobs:1", "a")
    with hearing(running.redis, "notify:jobs:1") as heard:
        running.redis.config_set(name, bad)
        refused = [publisher.publish("jobs:1", "b", key="k") for _ in range(3)]
        running.redis.config_set(name, good)

        assert refused == [None] * 3
        assert publisher.dropped == 3
        assert told == [("jobs:1", "b")] * 3
        assert heard() == []
        assert publisher.publish("jobs:1", "b", key="k")
        [announced] = heard()
    assert announced.endswith(b'{"type":"b","data":null}')
    assert len(running.log()) == 2
    assert f"they are dropped: {code} " in caplog.text
    assert "events dropped: 3" in caplog.text


def test_the_connections_to_a_server_that_became_a_replica_are_closed(connect, valkey, caplog):
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


def test_a_publish_whose_reply_is_lost_is_repeated_with_its_key(connect, valkey, proxy):
    publisher = connect(proxy.url, timeout=10)
    publisher.publish("jobs:1", "a")
    proxy.lose = 1
    id = publisher.publish("jobs:1", "b", key="k")

    assert proxy.lost == 1
    assert len(valkey.log()) == 2
    assert publisher.publish("jobs:1", "b", key="k") == id
    assert publisher.dropped == 0


def test_a_publish_whose_reply_is_lost_is_not_repeated_without_a_key(connect, valkey, proxy):
    publisher = connect(proxy.url)
    publisher.publish("jobs:1", "a")
    proxy.lose = 1

    assert publisher.publish("jobs:1", "b") is None
    assert publisher.dropped == 1
    assert len(valkey.log()) == 2


# Seconds: on a quiet machine the shorter timeout is enough for two tries, and saves time; where it is not, the longer one must be.
PATIENCE = (3, 30)


def test_a_publish_whose_reply_is_late_is_repeated_with_its_key(connect, valkey, proxy):
    for timeout in PATIENCE:
        publisher = connect(proxy.url, timeout=timeout)
        publisher.publish("jobs:1", "a")
        before, lost, proxy.hold = len(valkey.log()), proxy.lost, 1
        id, seconds = timed(publisher.publish, "jobs:1", "b", key=f"k{timeout}")
        if publisher.dropped == 0:
            break

    assert id is not None
    assert seconds >= timeout / 3
    assert (publisher.dropped, proxy.lost - lost, len(valkey.log()) - before) == (0, 1, 1)


def test_one_drop_does_not_cost_the_event_with_a_key_that_follows_it(connect, valkey, proxy):
    for timeout in PATIENCE:
        publisher = connect(proxy.url, timeout=timeout)
        proxy.hold = 1
        first = publisher.publish("jobs:1", "started")
        second = publisher.publish("jobs:1", "completed", final=True, key=f"end{timeout}")
        if second is not None:
            break

    assert (first, second is None) == (None, False)


def test_after_two_failures_an_event_with_a_key_waits_no_more_than_others(connect, mute):
    publisher = connect(mute, timeout=LIMIT)
    for key in ("a", "b"):
        publisher.publish("jobs:1", "completed", key=key)

    assert min(timed(publisher.publish, "jobs:1", "completed", key=str(n))[1] for n in range(5)) < AT_ONCE


def test_while_one_call_tries_redis_again_the_others_do_not_wait(mute):
    publisher = Publisher(mute, timeout=3)
    publisher.publish("jobs:1", "a")
    time.sleep(FIRST_WINDOW * (1 + JITTER))

    with ThreadPoolExecutor() as pool:
        waits = list(pool.map(lambda _: timed(publisher.publish, "jobs:1", "a")[1], range(4)))

    assert sum(seconds > 0.9 for seconds in waits) == 1  # a third of the timeout


def test_a_publish_is_tried_no_more_than_twice(connect, valkey, proxy):
    publisher = connect(proxy.url, timeout=10)  # it is tried again only before two fifths of that are over
    proxy.lose = 5

    assert publisher.publish("jobs:1", "b", key="k") is None
    assert proxy.lost == 2
    assert len(valkey.log()) == 1
