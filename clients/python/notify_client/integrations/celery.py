"""Celery: publishes what happens to every task of an app.

    from notify_client.integrations.celery import report_tasks
    report_tasks(app, "redis://localhost:6379")

The id of a job is that of the task. Its owner is a header, which is inherited by the tasks that it starts, also in chains, groups,
chords and retries:

    resize.apply_async((42,), headers={"notify_owner": "ann"})

A task reports its progress with ``self.update_state(state="PROGRESS", meta={"percent": 40})``, as usual in Celery, or with
``progress(percent=40)``. A task whose class is not derived from ``app.Task`` must use the latter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import celery
from celery import signals, states
from celery.exceptions import TimeLimitExceeded
from celery.utils.serialization import UnpickleableExceptionWrapper
from celery.worker.request import Request

from notify_client.integrations.jobs import OWNER, Details, Job, Jobs
from notify_client.publisher import Publisher

_jobs: WeakKeyDictionary[celery.Celery, Jobs] = WeakKeyDictionary()
_sending: ContextVar[Any] = ContextVar("_sending", default=None)
"""The app that is sending a task, which Celery's signal does not say."""


def _owner(request: Any) -> str | None:
    # Where a custom header ends up differs between versions of Celery, and between real and eager calls.
    return getattr(request, OWNER, None) or (getattr(request, "headers", None) or {}).get(OWNER)


def _job(task: Any, request: Any) -> Job:
    return Job(request.id, task.name, _owner(request))


def _raised(exception: BaseException) -> BaseException:
    """What the task has raised, if Celery has put another exception in its place because that one cannot be pickled."""
    raised = sys.exc_info()[1]
    replaced = isinstance(exception, UnpickleableExceptionWrapper) or isinstance(raised, type(exception))
    return raised if raised is not None and replaced else exception


def progress(**fields: Any) -> None:
    """Report the progress of the running task; does nothing outside of a task."""
    task = celery.current_task
    if task and task.request.id and task.app in _jobs:
        _jobs[task.app].tell(_job(task, task.request), "progress", fields)


class _Reports:
    """Reports what Celery's signals say of the tasks of one app."""

    def __init__(self, app: celery.Celery, jobs: Jobs) -> None:
        self._app = app
        self._jobs = jobs

    def connect(self) -> None:
        """Connect to the signals."""
        signals.before_task_publish.connect(self._on_publish, weak=False)
        signals.task_prerun.connect(self._on_start, weak=False)
        signals.task_success.connect(self._on_success, weak=False)
        signals.task_failure.connect(self._on_failure, weak=False)
        signals.task_revoked.connect(self._on_revoked, weak=False)

    def tell(self, task: Any, type: str, fields: Any = None, *, job: Job | None = None, error: BaseException | str | None = None) -> None:
        """Report what happened to a task, unless it belongs to another app, or is one of Celery's own tasks."""
        if task.app is self._app and not task.name.startswith("celery."):
            self._jobs.tell(job or _job(task, task.request), type, fields, error=error)

    def _on_publish(self, sender: str, headers: dict[str, Any], **_: Any) -> None:
        if _sending.get() is not self._app:
            return
        running = self._app.current_worker_task
        if OWNER not in headers and running and (owner := _owner(running.request)):
            headers[OWNER] = owner
        # This signal comes before the task (or its retry) is sent, so that the event is published before another process can start it.
        if "id" in headers and not sender.startswith("celery."):
            retrying = bool(headers.get("retries"))
            error = sys.exc_info()[1] if retrying else None
            self._jobs.tell(Job(headers["id"], sender, headers.get(OWNER)), "retrying" if retrying else "queued", error=error)

    def _on_start(self, task: Any, **_: Any) -> None:
        self.tell(task, "started")

    def _on_success(self, sender: Any, result: Any, **_: Any) -> None:
        self.tell(sender, "completed", {"result": result})

    def _on_failure(self, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        owner = _owner(sender.request) if sender.request.id == task_id else None
        self.tell(sender, "failed", job=Job(task_id, sender.name, owner), error=_raised(exception))

    def _on_revoked(self, sender: Any, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
        error = "Expired" if expired else "Terminated" if terminated else "Revoked"
        self.tell(sender, "failed", job=_job(sender, request), error=error)


def _reporting_request(reports: _Reports) -> type[Request]:
    class ReportingRequest(Request):  # type: ignore[misc]
        """A request that reports from the worker's main process that its child process was killed, which the child cannot do."""

        def on_failure(self, *args: Any, **more: Any) -> None:
            with self._known():
                super().on_failure(*args, **more)

        def on_timeout(self, soft: bool, timeout: float) -> None:
            with self._known():
                super().on_timeout(soft, timeout)
            if not soft:  # older versions of Celery send no signal
                reports.tell(self.task, "failed", job=_job(self.task, self._context), error=TimeLimitExceeded(timeout))

        @contextmanager
        def _known(self) -> Iterator[None]:
            """Make the request known to the receiver of the signal, which takes the owner from it."""
            self.task.request_stack.push(self._context)
            try:
                yield
            finally:
                self.task.request_stack.pop()

    return ReportingRequest


def _naming_send_task(app: celery.Celery) -> Callable[..., Any]:
    send_task = app.send_task

    def naming_send_task(*args: Any, **more: Any) -> Any:
        before = _sending.set(app)
        try:
            return send_task(*args, **more)
        finally:
            _sending.reset(before)

    return naming_send_task


def _reporting_update_state(update_state: Callable[..., None], jobs: Jobs) -> Callable[..., None]:
    def reporting_update_state(
        self: Any, task_id: str | None = None, state: str | None = None, meta: Any = None, *args: Any, **more: Any
    ) -> None:
        update_state(self, task_id, state, meta, *args, **more)
        if self.request.id and task_id in (None, self.request.id) and state is not None and state not in states.ALL_STATES:
            jobs.tell(_job(self, self.request), "progress", meta if isinstance(meta, dict) else {"value": meta})

    return reporting_update_state


def report_tasks(app: celery.Celery, publisher: Publisher | str, *, results: bool = False, messages: bool = False) -> None:
    """Publish what happens to each task of an app.

    Call it once, where the app is made, so that it applies both in workers and where tasks are started.

    Args:
        app: the app
        publisher: which to use, or the URL of the gateway's Redis
        results: whether ``completed`` has what the task returned
        messages: whether ``failed`` and ``retrying`` have the error's text
    """
    _jobs[app] = jobs = Jobs(publisher, Details(results=results, messages=messages))
    reports = _Reports(app, jobs)
    reports.connect()
    app.send_task = _naming_send_task(app)
    app.Task.Request = _reporting_request(reports)
    app.Task.update_state = _reporting_update_state(app.Task.update_state, jobs)
