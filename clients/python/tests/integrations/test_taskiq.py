"""TaskIQ: the tasks of a real worker report."""

import asyncio
import os

import pytest

from clients.python.tests.integrations.support import HERE, import_anew, need, running

need("taskiq")
need("taskiq_redis")


@pytest.fixture(scope="module")
def tasks(redis_url):
    os.environ["TEST_REDIS_URL"] = redis_url
    tasks = import_anew("taskiq_tasks")
    with running("-m", "taskiq", "worker", f"{HERE}.taskiq_tasks:broker", "--workers", "1", "--log-level", "WARNING"):
        yield tasks


def kick(tasks, name, owner=None):
    async def run():
        await tasks.broker.startup()
        labels = {"notify_owner": owner} if owner else {}
        task = await getattr(tasks, name).kicker().with_labels(**labels).kiq()
        await tasks.broker.shutdown()
        return task.task_id

    return asyncio.run(run())


def test_a_task_reports_from_the_queue_to_its_end(tasks, log):
    id = kick(tasks, "resize", "ann")

    events = log.wait(f"jobs:{id}", "completed")
    rest = {"job": id, "task": "resize"}
    assert [event["type"] for event in events] == ["queued", "started", "progress", "completed"]
    assert [event["data"] for event in events[2:]] == [{"percent": 2, **rest}, {"result": {"url": "/files/42"}, **rest}]
    log.wait("user:ann", "completed")
    assert log.types("user:ann") == log.types(f"jobs:{id}")


def test_a_retry_is_no_end(tasks, log):
    id = kick(tasks, "broken", "bob")

    events = log.wait(f"jobs:{id}", "failed")
    assert [event["type"] for event in events] == ["queued", "started", "retrying", "started", "failed"]
    assert events[2]["data"] == {"error": "ValueError", "job": id, "task": "broken"}
    assert events[-1] == {"type": "failed", "data": {"error": "ValueError", "job": id, "task": "broken"}, "final": True}
    log.wait("user:bob", "failed")
    assert log.types("user:bob") == log.types(f"jobs:{id}")


def test_a_task_hands_its_owner_to_those_it_kicks(tasks, log):
    kick(tasks, "parent", "family")

    events = log.wait("user:family", "completed", 2)
    assert {event["data"]["task"] for event in events} == {"parent", "resize"}
