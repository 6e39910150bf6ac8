"""Huey: the tasks of a real consumer report."""

import os

import pytest

from clients.python.tests.integrations.support import HERE, import_anew, need, running

need("huey")


@pytest.fixture(scope="module")
def tasks(redis_url):
    os.environ["TEST_REDIS_URL"] = redis_url
    tasks = import_anew("huey_tasks")
    with running("-m", "huey.bin.huey_consumer", f"{HERE}.huey_tasks.huey", "--workers", "2", "--quiet"):
        yield tasks
    tasks.huey.storage.conn.close()


def test_a_task_reports_from_the_queue_to_its_end(tasks, log):
    id = tasks.resize(user="ann").id

    events = log.wait(f"jobs:{id}", "completed")
    rest = {"job": id, "task": "resize"}
    assert [event["type"] for event in events] == ["queued", "started", "progress", "completed"]
    assert [event["data"] for event in events[2:]] == [{"percent": 2, **rest}, {"result": {"url": "/files/42"}, **rest}]
    log.wait("user:ann", "completed")
    assert log.types("user:ann") == log.types(f"jobs:{id}")


def test_a_retry_is_no_end(tasks, log):
    id = tasks.broken(user="bob").id

    events = log.wait(f"jobs:{id}", "failed")
    assert [event["type"] for event in events] == ["queued", "started", "retrying", "queued", "started", "failed"]
    assert events[2]["data"] == {"error": "ValueError", "job": id, "task": "broken"}
    assert events[-1] == {"type": "failed", "data": {"error": "ValueError", "job": id, "task": "broken"}, "final": True}


def test_a_task_that_is_revoked_has_failed(tasks, log):
    result = tasks.resize.schedule(delay=1)
    result.revoke()

    assert log.wait(f"jobs:{result.id}", "failed")[-1]["data"]["error"] == "Revoked"


@pytest.mark.parametrize(("name", "error"), [("cancel", "Canceled"), ("locked", "TaskLocked"), ("perishable", "Expired")])
def test_a_task_that_does_not_complete_has_failed_with_the_reason(tasks, log, name, error):
    with tasks.huey.lock_task("held by the test"):
        id = getattr(tasks, name)().id

        assert log.wait(f"jobs:{id}", "failed")[-1]["data"]["error"] == error
