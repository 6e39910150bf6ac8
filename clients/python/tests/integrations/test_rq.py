"""RQ: the jobs of a real worker with real work-horses report."""

import os
import signal

import pytest
from redis import Redis

from clients.python.tests.integrations.support import HERE, import_anew, need, running
from tests.support.processes import processes
from tests.support.waiting import eventually

rq = need("rq")

COMMAND = ("-m", "rq.cli", "worker", "--quiet", "--worker-class")
PATIENT = (*COMMAND, f"{HERE}.rq_jobs.PatientWorker")


@pytest.fixture(scope="module")
def queue(redis_url):
    os.environ["TEST_REDIS_URL"] = redis_url
    jobs = import_anew("rq_jobs")
    with Redis.from_url(redis_url) as connection:
        yield jobs.PatientQueue(connection=connection)


@pytest.fixture(scope="module")
def worker(queue, redis_url):
    with running(*PATIENT, "--url", redis_url) as process:
        yield process


def enqueue(queue, name, **options):
    return queue.enqueue(f"{HERE}.rq_jobs.{name}", **options)


def test_a_job_reports_from_the_queue_to_its_end(queue, worker, log):
    job = enqueue(queue, "resize", meta={"notify_owner": "ann"})

    events = log.wait(f"jobs:{job.id}", "completed")
    rest = {"job": job.id, "task": f"{HERE}.rq_jobs.resize"}
    assert [event["type"] for event in events] == ["queued", "started", "progress", "completed"]
    assert events[2]["data"] == {"percent": 2, **rest}
    assert events[3] == {"type": "completed", "data": rest, "final": True}
    log.wait("user:ann", "completed")
    assert log.types("user:ann") == ["queued", "started", "progress", "completed"]


# Before RQ 3, a SpawnWorker's work-horse is not of the worker's class.
SPAWNING = pytest.param("Spawning", marks=pytest.mark.skipif(rq.VERSION.startswith("2."), reason="needs RQ 3"))


@pytest.mark.parametrize("kind", [SPAWNING, "Simple"])
def test_workers_that_do_not_fork_report_too(queue, redis_url, log, kind):
    own = type(queue)(kind, connection=queue.connection)
    jobs = [enqueue(own, name) for name in ("broken", "resize")]
    with running(*COMMAND, f"{HERE}.rq_jobs.{kind}", "--url", redis_url, "--burst", kind):
        log.wait(f"jobs:{jobs[1].id}", "completed")

    assert [log.types(f"jobs:{job.id}")[-1] for job in jobs] == ["failed", "completed"]


def test_without_reports_of_their_own_they_publish_to_rqs_redis(queue, redis_url, log):
    from notify_client.integrations.rq import ReportingQueue

    plain = ReportingQueue("plain", connection=queue.connection)
    job = enqueue(plain, "resize")
    with running(*COMMAND, "notify_client.integrations.rq.ReportingWorker", "--url", redis_url, "--burst", "plain"):
        log.wait(f"jobs:{job.id}", "completed")


def test_a_queue_publishes_where_its_class_says(queue, redis_url, log):
    from notify_client import Publisher
    from notify_client.integrations.jobs import Jobs

    class Elsewhere(type(queue)):
        reports = Jobs(Publisher(redis_url, prefix="elsewhere", timeout=5))

    job = enqueue(Elsewhere("elsewhere", connection=queue.connection), "resize")

    assert log.redis.llen(f"elsewhere:log:{{jobs:{job.id}}}") == 1
    assert log.types(f"jobs:{job.id}") == []


def test_a_failure_names_its_kind_and_nothing_more(queue, worker, log):
    job = enqueue(queue, "broken")

    event = log.wait(f"jobs:{job.id}", "failed")[-1]
    assert event["data"] == {"error": "ValueError", "job": job.id, "task": f"{HERE}.rq_jobs.broken"}


def test_a_job_whose_work_horse_is_killed_fails_once(queue, worker, log):
    job = enqueue(queue, "die", meta={"notify_owner": "bob"})
    log.wait(f"jobs:{job.id}", "failed")
    log.wait(f"jobs:{enqueue(queue, 'resize').id}", "completed")  # whatever else the worker had to say of it

    assert log.types(f"jobs:{job.id}") == ["queued", "started", "failed"]
    assert log.read(f"jobs:{job.id}")[-1]["data"]["error"] == "WorkHorseKilled"
    log.wait("user:bob", "failed")
    assert log.types("user:bob") == ["queued", "started", "failed"]


@pytest.mark.parametrize(("name", "error"), [("broken", "ValueError"), ("die", "WorkHorseKilled")])
def test_a_retry_is_no_end(queue, worker, log, name, error):
    job = enqueue(queue, name, retry=rq.Retry(max=1))

    events = log.wait(f"jobs:{job.id}", "failed")
    assert [event["type"] for event in events] == ["queued", "started", "retrying", "started", "failed"]
    assert [events[2]["data"]["error"], events[4]["data"]["error"]] == [error, error]


def test_a_job_may_ask_to_be_run_again(queue, worker, log):
    job = enqueue(queue, "again")

    events = log.wait(f"jobs:{job.id}", "failed")
    assert [event["type"] for event in events] == ["queued", "started", "retrying", "started", "failed"]
    assert events[-1]["data"]["error"] == "MaxRetriesExceeded"


def test_a_job_that_is_stopped_has_failed(queue, worker, log):
    job = enqueue(queue, "wait")
    assert eventually(lambda: job.get_status() == "started")  # RQ knows only then which job it is to stop
    rq.command.send_stop_job_command(queue.connection, job.id)

    assert log.wait(f"jobs:{job.id}", "failed")[-1]["data"]["error"] == "Stopped"


def test_a_job_that_failed_and_is_requeued_has_an_end_of_its_own(queue, worker, log):
    job = enqueue(queue, "broken")
    log.wait(f"jobs:{job.id}", "failed")
    assert eventually(lambda: job.get_status() == "failed")
    job.func_name = f"{HERE}.rq_jobs.resize"
    job.save()
    job.requeue()

    assert [event["type"] for event in log.wait(f"jobs:{job.id}", "completed")][:3] == ["queued", "started", "failed"]


def test_a_job_whose_worker_is_killed_is_reported_by_the_next_worker(queue, redis_url, log):
    with running(*PATIENT, "--url", redis_url, "lonely") as process:
        lonely = type(queue)("lonely", connection=queue.connection)
        job = enqueue(lonely, "wait", meta={"notify_owner": "cas"})
        assert eventually(lambda: job.get_status() == "started")
        horses = [other.pid for other in processes() if other.parent == process.pid]
        for pid in (process.pid, *horses):
            os.kill(pid, signal.SIGKILL)
    registry = lonely.started_job_registry
    for entry in queue.connection.zrange(registry.key, 0, -1):
        queue.connection.zadd(registry.key, {entry: 1})  # as if its time were up
    with running(*PATIENT, "--url", redis_url, "--burst", "lonely"):
        events = log.wait(f"jobs:{job.id}", "failed")

    assert [event["type"] for event in events] == ["queued", "started", "failed"]
    assert events[-1]["data"]["error"] == "AbandonedJobError"
    log.wait("user:cas", "failed")
    assert log.types("user:cas") == ["queued", "started", "failed"]
