"""arq: publishes what happens to every job of a worker.

    from notify_client.integrations.arq import enqueue, report_jobs

    @report_jobs("redis://localhost:6379")
    class WorkerSettings:
        functions = [resize]

    await enqueue(pool, AsyncJobs("redis://localhost:6379"), "resize", 42, notify_owner="ann")

A job's id is arq's. Its owner is a keyword argument, which is removed before the function is called. A function reports its progress
with ``await progress(ctx, percent=40)``.

arq's hooks do not tell how a job ended, so the outcome of its function is kept in ``ctx``. If arq still has the job after it has failed,
it will be run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Final, TypeVar
from uuid import uuid4

from arq.constants import job_key_prefix, result_key_prefix
from arq.worker import func

from notify_client.integrations.jobs import OWNER, AsyncJobs, Details, Job
from notify_client.publisher import AsyncPublisher

Settings = TypeVar("Settings", bound=type)

STATE: Final = "notify_state"
MAX_TRIES: Final = 5  # arq's own default


class _State:
    """One run of a job, kept in its ``ctx``."""

    def __init__(self, jobs: AsyncJobs, job: Job, max_tries: int) -> None:
        self.jobs = jobs
        self.job = job
        self.max_tries = max_tries
        self.result: Any = None
        self.error: BaseException | None = None


async def progress(ctx: dict[str, Any], **fields: Any) -> None:
    """Report the progress of the job of this ``ctx``; does nothing in a worker without ``report_jobs``."""
    if (state := ctx.get(STATE)) is not None:
        await state.jobs.tell(state.job, "progress", fields)


async def enqueue(pool: Any, jobs: AsyncJobs, function: str, *args: Any, **options: Any) -> Any:
    """As ``pool.enqueue_job``, with the same further arguments and the same result, but the job is reported as queued."""
    new = "_job_id" not in options
    id = options.setdefault("_job_id", uuid4().hex)
    # Reported before it is queued, because a worker may start it at once. A job that arq has already is not queued again.
    if new or not await pool.exists(job_key_prefix + id, result_key_prefix + id):
        await jobs.tell(Job(id, function, options.get(OWNER)), "queued")
    return await pool.enqueue_job(function, *args, **options)


def report_jobs(publisher: AsyncPublisher | str, *, results: bool = False, messages: bool = False) -> Callable[[Settings], Settings]:
    """Decorate a class of worker settings, so that what happens to each job is published.

    Args:
        publisher: which to use, or the URL of the gateway's Redis
        results: whether ``completed`` has what the function returned
        messages: whether ``failed`` and ``retrying`` have the error's text
    """
    jobs = AsyncJobs(publisher, Details(results=results, messages=messages))

    def decorate(settings: Settings) -> Settings:
        chosen: Any = settings
        tries = getattr(settings, "max_tries", MAX_TRIES)
        after, stop = getattr(settings, "after_job_end", None), getattr(settings, "on_shutdown", None)

        async def after_job_end(ctx: dict[str, Any]) -> None:
            if (state := ctx.get(STATE)) is not None:
                await _tell_end(ctx, state)
            if after is not None:
                await after(ctx)

        async def on_shutdown(ctx: dict[str, Any]) -> None:
            if stop is not None:
                await stop(ctx)
            await jobs.close()

        chosen.functions = [_reporting(func(function), jobs, tries) for function in getattr(settings, "functions", ())]
        chosen.cron_jobs = [_reporting(cron, jobs, tries) for cron in getattr(settings, "cron_jobs", None) or ()] or None
        chosen.after_job_end = staticmethod(after_job_end)
        chosen.on_shutdown = staticmethod(on_shutdown)
        return settings

    return decorate


def _reporting(function: Any, jobs: AsyncJobs, tries: int) -> Any:
    """The same function or cron job, but its runs are reported."""
    coroutine, most = function.coroutine, tries if function.max_tries is None else function.max_tries

    @wraps(coroutine)
    async def run(ctx: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        ctx[STATE] = state = _State(jobs, Job(ctx["job_id"], function.name, kwargs.pop(OWNER, None)), most)
        await jobs.tell(state.job, "started")
        try:
            state.result = await coroutine(ctx, *args, **kwargs)
        except (Exception, asyncio.CancelledError) as error:
            state.error = error
            raise
        return state.result

    return replace(function, coroutine=run)


async def _tell_end(ctx: dict[str, Any], state: _State) -> None:
    if state.error is None:
        await state.jobs.tell(state.job, "completed", {"result": state.result})
    elif not await ctx["redis"].exists(job_key_prefix + state.job.id):
        await state.jobs.tell(state.job, "failed", error=state.error)
    elif ctx["job_try"] >= state.max_tries:
        # The job is still queued, but arq will only refuse it, and calls no hook then.
        await state.jobs.tell(state.job, "failed", error="MaxRetriesExceeded")
    else:
        await state.jobs.tell(state.job, "retrying", error=state.error)
