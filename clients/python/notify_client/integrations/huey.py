"""Huey: one line, and every task reports.

    from notify_client.integrations.huey import report_tasks
    report_tasks(huey, "redis://localhost:6379", owner=lambda task: task.kwargs.get("user"))

A task's id is its job's id. Huey's tasks carry nothing but their arguments, so the owner is looked for there. In a task,
``progress(percent=40)``. A consumer that is killed as a whole tells nothing: Huey does not know what it was at.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import huey as library

from notify_client.integrations.jobs import Job, Jobs, Words
from notify_client.publisher import Publisher

# By their names: older versions do not know all of them.
ENDS: Final = {"revoked": "Revoked", "expired": "Expired", "interrupted": "Interrupted"}
ENDS_WITHOUT_RETRIES: Final = {
    "error": "Error",
    "timeout": "TaskTimeout",
    "rate-limited": "RateLimitExceeded",
    "locked": "TaskLocked",
    "canceled": "Canceled",
}

_running: ContextVar[tuple[Jobs, Job] | None] = ContextVar("notify_job", default=None)


def progress(**fields: Any) -> None:
    """Report how far the running task is. Outside of one it does nothing."""
    if (running := _running.get()) is not None:
        jobs, job = running
        jobs.tell(job, "progress", fields)


def report_tasks(
    huey: library.Huey,
    publisher: Publisher | str,
    *,
    owner: Callable[[Any], str | None] = lambda _task: None,
    results: bool = False,
    messages: bool = False,
) -> None:
    """Publish what happens to each task. To be called in consumers and in whatever enqueues tasks.

    Args:
        huey: the instance
        publisher: or the URL of the gateway's Redis
        owner: says whose a task is
        results: whether ``completed`` has what the task returned
        messages: whether ``failed`` has the error's text
    """
    jobs = Jobs(publisher, Words(results=results, messages=messages))

    def job_of(task: Any) -> Job:
        return Job(task.id, task.name, owner(task))

    def on_signal(signal: str, task: Any, error: BaseException | None = None) -> None:
        job = job_of(task)
        if signal == "enqueued":
            jobs.tell(job, "queued")
        elif signal == "executing":
            _running.set((jobs, job))
            jobs.tell(job, "started")
        elif signal == "retrying":
            jobs.tell(job, "retrying")
        elif signal in ENDS:
            jobs.tell(job, "failed", error=ENDS[signal])
        elif signal in ENDS_WITHOUT_RETRIES and not task.retries:
            jobs.tell(job, "failed", error=error or ENDS_WITHOUT_RETRIES[signal])

    def on_done(task: Any, value: Any, error: BaseException | None) -> None:
        # The signal of completion does not bring the value.
        _running.set(None)
        if error is None:
            jobs.tell(job_of(task), "completed", {"result": value})

    huey.signal()(on_signal)
    huey.post_execute()(on_done)
