"""Jobs: the life of a job as events, the same for every task queue.

A job's events are ``queued``, ``started``, ``progress``, ``retrying``, and at the end ``completed`` or ``failed``. They go to
``jobs:<id>``, and to ``user:<owner>`` where an owner is known; there ``data`` tells whose they are.

    {"job": "42", "task": "app.resize", ...}

with the fields of the progress, the name of an error's class as ``error``, and, if asked for, ``result`` or the error's text as
``message``. Tracebacks are never sent: they belong to the team, not to its users.

Nothing here raises or holds a worker up: what cannot be published is logged and dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from notify_client.command import show
from notify_client.publisher import AsyncPublisher, Publisher

OWNER: Final = "notify_owner"
"""The header, option, label or field of a task that names its owner."""

logger: Final = logging.getLogger("notify_client")


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        id: as the queue knows it
        task: the name of what it does
        owner: whom to tell, besides those who follow the job
        run: tells apart the runs of a job that is started anew after its end; each has an end of its own
    """

    id: str
    task: str
    owner: str | None = None
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is told of each job.

    Attributes:
        results: whether ``completed`` has what the task returned, if that is JSON
        messages: whether ``failed`` and ``retrying`` have the error's text; it may hold what is not meant for users
    """

    results: bool = False
    messages: bool = False

    def data(self, job: Job, type: str, fields: Mapping[str, Any], error: BaseException | str | None) -> dict[str, Any]:
        """The data of an event."""
        data = {**fields, "job": job.id, "task": job.task}
        if type == "completed" and not self.results:
            data.pop("result", None)
        if isinstance(error, BaseException):
            data["error"] = error.__class__.__name__
            if self.messages and str(error):
                data["message"] = str(error)
        elif error is not None:
            data["error"] = error
        return data

    def events(self, job: Job, type: str, fields: Mapping[str, Any], error: BaseException | str | None) -> Iterator[dict[str, Any]]:
        """The arguments of each ``publish`` that tells this."""
        event = {"type": type, "data": self.data(job, type, fields, error)}
        over = type in ("completed", "failed")
        if over:
            # However many processes see a job end, it ends once.
            event["key"] = f"end:{job.id}:{job.run}"
        if type == "progress":
            event["collapse"] = f"progress:{job.id}"
        yield {"channel": f"jobs:{job.id}", "final": over, **event}
        if job.owner is not None:
            yield {"channel": f"user:{job.owner}", **event}


def _is_worth_another_try(event: dict[str, Any], problem: ValueError) -> bool:
    """Whether the event can be published without its result."""
    again = event["type"] == "completed" and event["data"].pop("result", None) is not None
    logger.warning("job %s: %s: %s", show(event["data"]["job"]), "result left out" if again else f"{event['type']} not published", problem)
    return again


class Jobs:
    """Tells of jobs from threads and forked workers.

    Args:
        publisher: or the URL of Redis
        words: what is told
    """

    def __init__(self, publisher: Publisher | str, words: Words | None = None) -> None:
        self._publisher = Publisher(publisher) if isinstance(publisher, str) else publisher
        self._words = words or Words()

    def tell(self, job: Job, type: str, fields: Mapping[str, Any] | None = None, *, error: BaseException | str | None = None) -> None:
        """Publish that something happened to a job.

        Args:
            job: which
            type: what happened
            fields: what else to tell
            error: what went wrong
        """
        for event in self._words.events(job, type, fields or {}, error):
            while True:
                try:
                    self._publisher.publish(**event)
                except ValueError as problem:
                    if _is_worth_another_try(event, problem):
                        continue
                break


class AsyncJobs:
    """As Jobs, for asyncio."""

    def __init__(self, publisher: AsyncPublisher | str, words: Words | None = None) -> None:
        self._publisher = AsyncPublisher(publisher) if isinstance(publisher, str) else publisher
        self._words = words or Words()

    async def tell(self, job: Job, type: str, fields: Mapping[str, Any] | None = None, *, error: BaseException | str | None = None) -> None:
        """As ``Jobs.tell``."""
        for event in self._words.events(job, type, fields or {}, error):
            while True:
                try:
                    await self._publisher.publish(**event)
                except ValueError as problem:
                    if _is_worth_another_try(event, problem):
                        continue
                break

    async def close(self) -> None:
        """Close the connections."""
        await self._publisher.close()
