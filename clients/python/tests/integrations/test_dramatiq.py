"""Dramatiq: the messages of a real worker report."""

import os

import pytest

from clients.python.tests.integrations.support import HERE, import_anew, need, running

need("dramatiq")


@pytest.fixture(scope="module")
def actors(redis_url):
    os.environ["TEST_REDIS_URL"] = redis_url
    actors = import_anew("dramatiq_actors")
    with running("-m", "dramatiq", f"{HERE}.dramatiq_actors", "--processes", "1", "--threads", "2"):
        yield actors
    actors.broker.close()
    actors.broker.client.close()


def test_a_message_reports_from_the_queue_to_its_end(actors, log):
    id = actors.resize.send_with_options(notify_owner="ann").message_id

    events = log.wait(f"jobs:{id}", "completed")
    rest = {"job": id, "task": "resize"}
    assert [event["type"] for event in events] == ["queued", "started", "progress", "completed"]
    assert [event["data"] for event in events[2:]] == [{"percent": 2, **rest}, rest]
    assert events[3]["final"] is True
    log.wait("user:ann", "completed")
    assert log.types("user:ann") == log.types(f"jobs:{id}")


def test_a_retry_is_no_end_and_is_told_once(actors, log):
    id = actors.broken.send_with_options(notify_owner="bob").message_id

    events = log.wait(f"jobs:{id}", "failed")
    assert [event["type"] for event in events] == ["queued", "started", "retrying", "started", "failed"]
    assert [events[number]["data"] for number in (2, 4)] == [{"error": "ValueError", "job": id, "task": "broken"}] * 2
    log.wait("user:bob", "failed")
    assert log.types("user:bob") == log.types(f"jobs:{id}")


def test_an_exception_that_is_not_retried_is_the_end(actors, log):
    id = actors.refuse.send().message_id

    assert [event["type"] for event in log.wait(f"jobs:{id}", "failed")] == ["queued", "started", "failed"]
    assert log.read(f"jobs:{id}")[-1]["data"]["error"] == "KeyError"


def test_a_message_that_is_delayed_is_queued_once(actors, log):
    id = actors.resize.send_with_options(delay=100).message_id

    assert [event["type"] for event in log.wait(f"jobs:{id}", "completed")] == ["queued", "started", "progress", "completed"]


def test_a_message_that_is_too_old_has_failed(actors, log):
    message = actors.perishable.message()
    actors.broker.enqueue(message.copy(message_timestamp=message.message_timestamp - 60_000))

    (*_, end) = log.wait(f"jobs:{message.message_id}", "failed")
    assert (end["data"]["error"], end["final"]) == ("Skipped", True)


def test_a_message_hands_its_owner_to_those_it_sends(actors, log):
    actors.parent.send_with_options(notify_owner="family")

    events = log.wait("user:family", "completed", 2)
    assert {event["data"]["task"] for event in events} == {"parent", "resize"}
