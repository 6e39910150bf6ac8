"""TaskIQ: a middleware that publishes what happens to every task of a broker.

    from notify_client.integrations.taskiq import Reports
    broker = broker.with_middlewares(Reports("redis://localhost:6379"), SimpleRetryMiddleware())

The id of a job is that of the task. Its owner is a label, which is inherited by the tasks that it kicks:

    await resize.kicker().with_labels(notify_owner="ann").kiq(42)

A task reports its progress with ``await progress(percent=40)``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError

from notify_client.integrations.jobs import OWNER, AsyncJobs, Details, Job
from notify_client.publisher import AsyncPublisher

RETRIES = "_retries"  # the label of TaskIQ's own retry middlewares

_running: ContextVar[tuple[AsyncJobs, Job] | None] = ContextVar("notify_job", default=None)
_error: ContextVar[BaseException | None] = ContextVar("notify_error", default=None)


def _job(message: TaskiqMessage) -> Job:
    return Job(message.task_id, message.task_name, message.labels.get(OWNER))


async def progress(**fields: Any) -> None:
    """Report the progress of the running task; does nothing outside of a task."""
    if (running := _running.get()) is not None:
        jobs, job = running
        await jobs.tell(job, "progress", fields)


class _Failures(TaskiqMiddleware):
    """Notes why a task has failed, for the retry that another middleware may send."""

    async def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
        _error.set(exception)


class Reports(_Failures):
    """Publishes what happens to each task.

    Args:
        publisher: which to use, or the URL of the gateway's Redis
        results: whether ``completed`` has what the task returned
        messages: whether ``failed`` and ``retrying`` have the error's text
    """

    def __init__(self, publisher: AsyncPublisher | str, *, results: bool = False, messages: bool = False) -> None:
        super().__init__()
        self._jobs = AsyncJobs(publisher, Details(results=results, messages=messages))
        self._retried: set[str] = set()

    async def startup(self) -> None:
        # Whichever middleware sends the retry, one before it must have heard of the failure. TaskIQ 0.13 tells the last one first.
        self.broker.add_middlewares(_Failures())

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        running = _running.get()
        if running is not None and running[1].owner is not None:
            message.labels.setdefault(OWNER, running[1].owner)
        retrying = bool(int(message.labels.get(RETRIES, 0)))
        if retrying and running is not None and running[1].id == message.task_id:
            self._retried.add(message.task_id)  # so that the result of this attempt, which is still to come, is not reported as the end
        await self._jobs.tell(_job(message), "retrying" if retrying else "queued", error=_error.get() if retrying else None)
        return message

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        _running.set((self._jobs, _job(message)))
        await self._jobs.tell(_job(message), "started")
        return message

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        if message.task_id in self._retried:
            self._retried.discard(message.task_id)
        elif not result.is_err:
            await self._jobs.tell(_job(message), "completed", {"result": result.return_value})
        elif not isinstance(result.error, NoResultError):
            await self._jobs.tell(_job(message), "failed", error=result.error)

    async def shutdown(self) -> None:
        await self._jobs.close()
