"""RQ: a worker and a queue that report.

    rq worker --worker-class notify_client.integrations.rq.ReportingWorker

    queue = ReportingQueue(connection=Redis())
    queue.enqueue(resize, 42, meta={"notify_owner": "ann"})

By themselves they publish to RQ's own Redis. Where the gateway has another, or results are to be told, give a
subclass its ``reports``:

    class Worker(ReportingWorker):
        reports = Jobs("redis://gateway-redis:6379", Words(results=True))

In a job, ``progress(percent=40)``.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, ClassVar

import redis
import rq
from rq.exceptions import AbandonedJobError
from rq.job import Job as RqJob

from notify_client.connection import patience
from notify_client.integrations.jobs import OWNER, Job, Jobs
from notify_client.publisher import TIMEOUT, Publisher

_running: tuple[Jobs, Job] | None = None


def _job(job: RqJob) -> Job:
    # A job that failed may be put on the queue again, by hand for instance: that run has an end of its own.
    queued = job.enqueued_at
    return Job(job.id, job.func_name or "", job.meta.get(OWNER), queued.isoformat() if isinstance(queued, datetime) else "")


def _jobs_at(connection: redis.Redis) -> Jobs:
    """To the same Redis, but without RQ's patience."""
    pool = connection.connection_pool
    own = redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs | patience(TIMEOUT))
    return Jobs(Publisher(client=redis.Redis(connection_pool=own)))


def progress(**fields: Any) -> None:
    """Report how far the running job is. Outside of one it does nothing."""
    if _running is not None:
        jobs, job = _running
        jobs.tell(job, "progress", fields)


class ReportingQueue(rq.Queue):
    """A queue that tells of each job that is put on it."""

    reports: ClassVar[Jobs | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reports = self.reports or _jobs_at(self.connection)

    def _enqueue_job(self, job: RqJob, *args: Any, **kwargs: Any) -> RqJob:
        self._reports.tell(_job(job), "queued")  # before: a worker may be faster than what comes after
        return super()._enqueue_job(job, *args, **kwargs)


class ReportingWorker(rq.Worker):
    """A worker that tells of each job.

    Its own methods rather than RQ's callbacks: those are not called when the work-horse is killed.
    """

    reports: ClassVar[Jobs | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reports = self.reports or _jobs_at(self.connection)
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

    def _report_abandoned(self, job: RqJob, kind: type[BaseException], *_: Any) -> None:
        """The worker that had the job is gone as a whole, and this one found its leavings."""
        if kind is AbandonedJobError:
            self._reports.tell(_job(job), "retrying" if job.retries_left else "failed", error=kind.__name__)
