"""RQ: a worker class and a queue class that publish what happens to every job.

    rq worker --worker-class notify_client.integrations.rq.ReportingWorker

    queue = ReportingQueue(connection=Redis())
    queue.enqueue(resize, 42, meta={"notify_owner": "ann"})

By default they publish to RQ's own Redis. If the gateway uses another one, or the results are to be published, make a subclass with
``reports``:

    class Worker(ReportingWorker):
        reports = Jobs("redis://gateway-redis:6379", Details(results=True))

RQ's other workers report as ``class Worker(ReportingWorker, rq.SimpleWorker)``, and so does ``rq.SpawnWorker`` from RQ 3 on.

A job reports its progress with ``progress(percent=40)``.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, ClassVar

import redis
import rq
from rq.exceptions import AbandonedJobError
from rq.job import Job as RqJob

from notify_client.connection import timeouts
from notify_client.integrations.jobs import OWNER, Job, Jobs
from notify_client.publisher import TIMEOUT, Publisher

_running: tuple[Jobs, Job] | None = None


def _job(job: RqJob) -> Job:
    # A job that failed may be queued again, for instance by hand. Each run has its own final event, so the time of queueing names it.
    queued = job.enqueued_at
    return Job(job.id, job.func_name or "", job.meta.get(OWNER), queued.isoformat() if isinstance(queued, datetime) else "")


def _jobs_at(connection: redis.Redis) -> Jobs:
    """Publishes to the same Redis, but with short timeouts instead of RQ's."""
    pool = connection.connection_pool
    own = redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs | timeouts(TIMEOUT))
    return Jobs(Publisher(client=redis.Redis(connection_pool=own)))


def progress(**fields: Any) -> None:
    """Report the progress of the running job; does nothing outside of a job."""
    if _running is not None:
        jobs, job = _running
        jobs.tell(job, "progress", fields)


class ReportingQueue(rq.Queue):
    """A queue that reports each job that is put on it."""

    reports: ClassVar[Jobs | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reports = self.reports or _jobs_at(self.connection)

    def _enqueue_job(self, job: RqJob, *args: Any, **kwargs: Any) -> RqJob:
        self._reports.tell(_job(job), "queued")  # before it is queued, because a worker may start it at once
        return super()._enqueue_job(job, *args, **kwargs)


class ReportingWorker(rq.Worker):
    """A worker that reports what happens to each job.

    It overrides methods of RQ's worker, because RQ's callbacks are not called when the work-horse is killed.
    """

    reports: ClassVar[Jobs | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reports = self.reports or _jobs_at(self.connection)
        # A method of the class, because RQ's SpawnWorker pickles its handlers.
        self.push_exc_handler(self._report_abandoned)  # type: ignore[no-untyped-call]

    def perform_job(self, job: RqJob, *args: Any, **kwargs: Any) -> bool:
        global _running  # noqa: PLW0603 - a work-horse performs one job
        _running = self._reports, _job(job)
        self._reports.tell(_job(job), "started")
        try:
            return super().perform_job(job, *args, **kwargs)
        finally:
            _running = None

    def handle_job_success(self, job: RqJob, *args: Any, **kwargs: Any) -> None:
        run = _job(job)
        super().handle_job_success(job, *args, **kwargs)
        self._reports.tell(run, "completed", {"result": job._result})  # noqa: SLF001 - return_value() would ask Redis

    def handle_job_failure(self, job: RqJob, *args: Any, **kwargs: Any) -> None:
        run, error = _job(job), sys.exc_info()[1]
        stopped = self._stopped_job_id == job.id
        if job.retries_left and not stopped:
            self._reports.tell(run, "retrying", error=error or "WorkHorseKilled")
            super().handle_job_failure(job, *args, **kwargs)
        else:
            super().handle_job_failure(job, *args, **kwargs)
            self._reports.tell(run, "failed", error=error or ("Stopped" if stopped else "WorkHorseKilled"))

    def handle_job_retry(self, job: RqJob, queue: rq.Queue, retry: rq.Retry, *args: Any, **kwargs: Any) -> None:
        run, over = _job(job), bool(job.number_of_retries and job.number_of_retries >= retry.max)
        self._reports.tell(run, "failed" if over else "retrying", error="MaxRetriesExceeded" if over else None)
        super().handle_job_retry(job, queue, retry, *args, **kwargs)

    @classmethod
    def _report_abandoned(cls, job: RqJob, kind: type[BaseException], *_: Any) -> None:
        """Report a job whose worker is gone, and which this worker has found in the registry of started jobs."""
        if kind is AbandonedJobError:
            reports = cls.reports or _jobs_at(job.connection)
            reports.tell(_job(job), "retrying" if job.retries_left else "failed", error=kind.__name__)
