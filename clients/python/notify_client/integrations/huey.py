"""Huey: publishes what happens to every task of an instance.

    from notify_client.integrations.huey import report_tasks
    report_tasks(huey, "redis://localhost:6379", owner=lambda task: task.kwargs.get("user"))

The id of a job is that of the task. Huey's tasks carry only their arguments, so the owner is taken from those. A task reports its
progress with ``progress(percent=40)``. If a whole consumer is killed, nothing is reported, because Huey does not know which tasks it
was running.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import huey as library

from notify_client.integrations.jobs import Details, Job, Jobs
from notify_client.publisher import Publisher

# Signals by their names, because older versions of Huey do not have constants for all of them; and the errors that are reported.
ENDS: Final = {"revoked": "Revoked", "expired": "Expired", "interrupted": "Interrupted"}
ENDS_WITHOUT_RETRIES: Final = {
    "error": "Error",
    "timeout": "TaskTimeout",
    "rate-limited": "RateLimitExceeded",
    "locked": "TaskLocked",
    "canceled": "Canceled",
}

_running: ContextVar[tuple[Jobs, Job] | None] = ContextVar("notify_job", default=None)
_error: ContextVar[BaseException | None] = ContextVar("notify_error", default=None)


def progress(**fields: Any) -> None:
    """Report the progress of the running task; does nothing outside of a task."""
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
    """Publish what happens to each task. Call it both in consumers and in programs that enqueue tasks.

    Args:
        huey: the instance
        publisher: which to use, or the URL of the gateway's Redis
        owner: returns the owner of a task; ``None`` for nobody
        results: whether ``completed`` has what the task returned
        messages: whether ``failed`` and ``retrying`` have the error's text
    """
    jobs = Jobs(publisher, Details(results=results, messages=messages))

    def job_of(task: Any) -> Job:
        return Job(task.id, task.name, owner(task))

    def on_signal(signal: str, task: Any, error: BaseException | None = None) -> None:
        job = job_of(task)
        if signal == "enqueued":
            jobs.tell(job, "queued")
        elif signal == "executing":
            _running.set((jobs, job))
            _error.set(None)
            jobs.tell(job, "started")
        elif signal == "retrying":
            jobs.tell(job, "retrying", error=_error.get())
        elif signal in ENDS:
            jobs.tell(job, "failed", error=ENDS[signal])
        elif signal in ENDS_WITHOUT_RETRIES and not task.retries:
            jobs.tell(job, "failed", error=error or ENDS_WITHOUT_RETRIES[signal])

    def on_done(task: Any, value: Any, error: BaseException | None) -> None:
        # Used instead of the signal of completion, which does not have the value. It comes before that of a retry, which has no error.
        _running.set(None)
        _error.set(error)
        if error is None:
            jobs.tell(job_of(task), "completed", {"result": value})

    huey.signal()(on_signal)
    huey.post_execute()(on_done)
