"""Jobs: the life of a job as events, the same for every task queue.

A job's events are ``queued``, ``started``, ``progress``, ``retrying``, and at the end ``completed`` or ``failed``. They are published on
``jobs:<id>``, and on ``user:<owner>`` if the job has an owner. Their ``data`` is

    {"job": "42", "task": "app.resize", ...}

with the fields of the progress, or the name of the error's class as ``error``, and, if asked for, the ``result`` or the error's text as
``message``. Tracebacks are never published, because users must not see them.

Nothing here raises or holds a worker up: an event that cannot be published is logged and dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from notify_client.command import show
from notify_client.publisher import AsyncPublisher, Publisher

OWNER: Final = "notify_owner"
"""The name of the header, option, label or field with which a task names its owner."""

EXTRAS: Final = {"completed": "result", "failed": "message", "retrying": "message"}
"""What of an event may be too long, or not JSON, and is then left out, so that the rest is published: the page must know of the end."""

logger: Final = logging.getLogger("notify_client")


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        id: in the task queue
        task: the name of its task
        owner: who is told besides the followers of the job; ``None`` for nobody
        run: distinguishes the runs of a job that is queued again after its end, because each run has its own final event
    """

    id: str
    task: str
    owner: str | None = None
    run: str = ""


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - whatever an exception raises that cannot say what it is
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What the events of jobs contain, besides what they always do.

    Attributes:
        results: whether ``completed`` has what the task returned, if that is JSON
        messages: whether ``failed`` and ``retrying`` have the error's text, which may hold what is not meant for users
    """

    results: bool = False
    messages: bool = False

    def data(self, job: Job, type: str, fields: Mapping[str, Any], error: BaseException | str | None) -> dict[str, Any]:
        """The data of an event; the arguments are those of ``Jobs.tell``."""
        data = {**fields, "job": job.id, "task": job.task}
        if type == "completed" and not self.results:
            data.pop("result", None)
        if isinstance(error, BaseException):
            data["error"] = error.__class__.__name__
            if self.messages and (message := _message(error)):
                data["message"] = message
        elif error is not None:
            data["error"] = error
        return data

    def events(self, job: Job, type: str, fields: Mapping[str, Any], error: BaseException | str | None) -> Iterator[dict[str, Any]]:
        """The arguments of ``Publisher.publish`` for each event; the arguments are those of ``Jobs.tell``."""
        event = {"type": type, "data": self.data(job, type, fields, error)}
        over = type in ("completed", "failed")
        if over:
            # With a key, because several processes may see the job end, and it must have only one final event.
            event["key"] = f"end:{job.id}:{job.run}"
        if type == "progress":
            event["collapse"] = f"progress:{job.id}"
        yield {"channel": f"jobs:{job.id}", "final": over, **event}
        if job.owner is not None:
            yield {"channel": f"user:{job.owner}", **event}


def _drop_extra(event: dict[str, Any], problem: ValueError) -> bool:
    """Take the result, or the error's text, out of an event that cannot be published, and log the problem; ``False`` if it has neither."""
    extra = EXTRAS.get(event["type"], "")
    dropped = event["data"].pop(extra, None) is not None
    what = f"{extra} left out" if dropped else f"{event['type']} not published"
    logger.warning("job %s: %s: %s", show(event["data"]["job"]), what, problem)
    return dropped


class Jobs:
    """Publishes the events of jobs, from threads and forked workers.

    Args:
        publisher: which to use, or the URL of the gateway's Redis
        details: what the events contain
    """

    def __init__(self, publisher: Publisher | str, details: Details | None = None) -> None:
        self._publisher = Publisher(publisher) if isinstance(publisher, str) else publisher
        self._details = details or Details()

    def tell(self, job: Job, type: str, fields: Mapping[str, Any] | None = None, *, error: BaseException | str | None = None) -> None:
        """Publish that something happened to a job.

        Args:
            job: to which it happened
            type: what happened, such as ``started``
            fields: further fields of the event's data
            error: what went wrong, or its name; ``None`` for nothing
        """
        for event in self._details.events(job, type, fields or {}, error):
            while True:
                try:
                    self._publisher.publish(**event)
                except ValueError as problem:
                    if _drop_extra(event, problem):
                        continue
                break


class AsyncJobs:
    """``Jobs`` for asyncio."""

    def __init__(self, publisher: AsyncPublisher | str, details: Details | None = None) -> None:
        self._publisher = AsyncPublisher(publisher) if isinstance(publisher, str) else publisher
        self._details = details or Details()

    async def tell(self, job: Job, type: str, fields: Mapping[str, Any] | None = None, *, error: BaseException | str | None = None) -> None:
        """As ``Jobs.tell``."""
        for event in self._details.events(job, type, fields or {}, error):
            while True:
                try:
                    await self._publisher.publish(**event)
                except ValueError as problem:
                    if _drop_extra(event, problem):
                        continue
                break

    async def close(self) -> None:
        """Close the connections."""
        await self._publisher.close()
