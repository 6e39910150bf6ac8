"""Celery: the tasks of a real worker with real child processes report."""

import os
import signal
import time

import pytest
from notify_client import Publisher

from clients.python.tests.integrations.support import HERE, import_anew, need, running
from gateway.embedded import embedded_server

celery = need("celery")

OWNED = {"headers": {"notify_owner": "ann"}}


@pytest.fixture(scope="module")
def tasks(redis_url):
    with embedded_server() as broker:
        os.environ |= {"TEST_BROKER_URL": broker, "TEST_REDIS_URL": redis_url}
        tasks = import_anew("celery_tasks")
        yield tasks
        tasks.app.close()


@pytest.fixture(scope="module")
def worker(tasks):
    command = ("-m", "celery", "-A", f"{HERE}.celery_tasks", "worker", "-c", "2", "-l", "warning", "--without-gossip", "--without-mingle")
    with running(*command) as process:
        yield process


def ends(log, channel):
    return [event["type"] for event in log.read(channel) if event["type"] in ("completed", "failed")]


def test_a_task_reports_from_the_queue_to_its_end(tasks, worker, log):
    id = tasks.resize.apply_async(**OWNED).id

    events = log.wait(f"jobs:{id}", "completed")
    assert [event["type"] for event in events] == ["queued", "started", "progress", "completed"]
    assert events[2]["data"] == {"percent": 100, "job": id, "task": tasks.resize.name}
    assert events[3] == {
        "type": "completed",
        "data": {"result": {"url": "/files/42"}, "job": id, "task": tasks.resize.name},
        "final": True,
    }
    assert [event["type"] for event in log.wait("user:ann", "completed")][-4:] == ["queued", "started", "progress", "completed"]
    assert not any("final" in event for event in log.read("user:ann"))


def test_of_several_apps_in_one_process_each_reports_its_own_tasks(tasks, redis_url, log):
    apps = [celery.Celery(name, broker="memory://", set_as_current=False) for name in ("first", "second", "silent")]
    for app in apps[:2]:
        tasks.report_tasks(app, Publisher(redis_url, prefix=app.main))
    sent = {app.main: app.send_task("tasks.elsewhere").id for app in apps}

    told = {key.decode() for id in sent.values() for key in log.redis.keys(f"*:log:{{jobs:{id}}}")}
    assert told == {f"{name}:log:{{jobs:{sent[name]}}}" for name in ("first", "second")}


def test_progress_outside_of_a_task_does_nothing(tasks, log):
    before = log.redis.dbsize()
    tasks.progress(percent=1)

    assert log.redis.dbsize() == before


def test_celerys_own_tasks_are_not_told_of(tasks, worker, log):
    result = tasks.app.tasks["celery.map"].delay(tasks.add.s(), [[1], [2]])

    assert result.get(timeout=30) == [1, 2]
    log.wait(f"jobs:{tasks.resize.delay().id}", "completed")
    assert log.types(f"jobs:{result.id}") == []


def test_without_an_owner_only_the_job_tells(tasks, worker, log):
    before = len(log.redis.keys("notify:log:{user:*"))
    log.wait(f"jobs:{tasks.resize.delay().id}", "completed")

    assert len(log.redis.keys("notify:log:{user:*")) == before


def test_a_retry_is_no_end(tasks, worker, log):
    id = tasks.flaky.apply_async(headers={"notify_owner": "bob"}).id

    events = log.wait(f"jobs:{id}", "completed")
    assert [event["type"] for event in events] == ["queued", "started", "retrying", "started", "retrying", "started", "completed"]
    assert events[2]["data"]["error"] == "ValueError"
    log.wait("user:bob", "completed")
    assert log.types("user:bob") == log.types(f"jobs:{id}")


def test_a_failure_names_its_kind_and_nothing_more(tasks, worker, log):
    id = tasks.broken.delay().id

    event = log.wait(f"jobs:{id}", "failed")[-1]
    assert event == {"type": "failed", "data": {"error": "ValueError", "job": id, "task": tasks.broken.name}, "final": True}


@pytest.mark.parametrize(("item", "error"), [("ink", "OutOfStock"), ("moon", "OutOfReach")])
def test_a_failure_names_its_kind_also_if_its_exception_cannot_be_pickled(tasks, worker, log, item, error):
    id = tasks.order.delay(item).id

    assert log.wait(f"jobs:{id}", "failed")[-1]["data"]["error"] == error


@pytest.mark.parametrize(("name", "error"), [("die", "WorkerLostError"), ("hang", "TimeLimitExceeded")])
def test_a_task_whose_process_is_killed_fails_once(tasks, worker, log, name, error):
    owner = f"owner-of-{name}"
    id = getattr(tasks, name).apply_async(headers={"notify_owner": owner}).id

    assert log.wait(f"jobs:{id}", "failed")[-1]["data"]["error"] == error
    log.wait(f"jobs:{tasks.resize.delay().id}", "completed")  # whatever else the worker had to say of it
    assert ends(log, f"jobs:{id}") == ["failed"]
    log.wait(f"user:{owner}", "failed")
    assert log.types(f"user:{owner}") == ["queued", "started", "failed"]


def test_a_revoked_task_has_failed(tasks, worker, log):
    expired = tasks.resize.apply_async(expires=-1)
    while not tasks.app.control.ping(timeout=1):
        pass  # the worker has just been started, and does not listen yet
    revoked = tasks.resize.apply_async(countdown=1)
    revoked.revoke()

    for result, error in ((expired, "Expired"), (revoked, "Revoked")):
        assert log.wait(f"jobs:{result.id}", "failed")[-1]["data"]["error"] == error


def owners_jobs(log, owner, number):
    """The ids of so many jobs, once the owner has been told of their ends."""
    return {event["data"]["job"] for event in log.wait(f"user:{owner}", "completed", number) if event["type"] == "completed"}


def test_the_owner_goes_along_a_chain(tasks, worker, log):
    result = celery.chain(tasks.add.s(1, 2), tasks.add.s(3), tasks.add.s(4)).apply_async(headers={"notify_owner": "chain"})

    assert owners_jobs(log, "chain", 3) == {result.id, result.parent.id, result.parent.parent.id}


def test_the_owner_goes_into_a_group(tasks, worker, log):
    result = celery.group(tasks.add.s(n, n) for n in range(4)).apply_async(headers={"notify_owner": "group"})

    assert owners_jobs(log, "group", 4) == {child.id for child in result}


def test_the_owner_goes_through_a_chord_to_its_body(tasks, worker, log):
    result = celery.chord([tasks.add.s(n, n) for n in range(3)], tasks.add.s()).apply_async(headers={"notify_owner": "chord"})

    assert owners_jobs(log, "chord", 4) == {result.id, *(child.id for child in result.parent)}


def test_a_task_hands_its_owner_to_those_it_starts(tasks, worker, log):
    result = tasks.parent.apply_async(headers={"notify_owner": "family"})

    jobs = owners_jobs(log, "family", 2)
    assert len(jobs) == 2
    assert result.id in jobs


def test_a_result_that_cannot_be_sent_is_left_out(tasks, worker, log):
    id = tasks.opaque.delay().id

    assert log.wait(f"jobs:{id}", "completed")[-1]["data"] == {"job": id, "task": tasks.opaque.name}


def wait_well(tasks, log):
    """Until this process and those of the worker report again: the tests after this one, whichever they are, count on it."""
    deadline = time.monotonic() + 30
    well = 0
    while well < 5:
        assert time.monotonic() < deadline
        results = [tasks.resize.delay() for _ in range(2)]  # for each of the worker's processes
        for result in results:
            result.get(timeout=30)
        time.sleep(0.1)  # what was not told by then was dropped
        whole = all(log.types(f"jobs:{result.id}") == ["queued", "started", "progress", "completed"] for result in results)
        well = well + 1 if whole else 0


def test_a_worker_is_not_held_up_by_a_redis_that_hangs(tasks, worker, log):
    well = tasks.report_often.delay(100).get(timeout=30)
    valkey = log.redis.info("server")["process_id"]
    os.kill(valkey, signal.SIGSTOP)
    try:
        hanging = tasks.report_often.delay(100).get(timeout=30)
    finally:
        os.kill(valkey, signal.SIGCONT)
    wait_well(tasks, log)

    print(f"100 reports: {well:.3f} s, while Redis hangs {hanging:.3f} s")
    assert hanging < well + 3  # a wait for each report would make 25
