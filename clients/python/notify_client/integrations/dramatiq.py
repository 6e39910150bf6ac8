"""Dramatiq: a middleware that publishes what happens to every message of a broker.

    from notify_client.integrations.dramatiq import Reports
    broker.add_middleware(Reports("redis://localhost:6379"))

The id of a job is that of the message. Its owner is an option, which is inherited by the messages that are sent while it is processed:

    resize.send_with_options(args=(42,), notify_owner="ann")

An actor that is not a coroutine function reports its progress with ``progress(percent=40)``.

A failure is reported as final in ``after_nack``, because an exception alone does not tell whether there will be another try.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import dramatiq
from dramatiq.broker import Broker

from notify_client.integrations.jobs import OWNER, Details, Job, Jobs
from notify_client.publisher import Publisher

# The option with the number of the retry that was last reported as queued: a message with a delay is queued twice.
TOLD = "notify_told"


class _Running(threading.local):
    jobs: Jobs | None = None
    job: Job | None = None
    error: BaseException | None = None


_running = _Running()


def _job(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Job:
    return Job(message.message_id, message.actor_name, message.options.get(OWNER))


def progress(**fields: Any) -> None:
    """Report the progress of the message that this thread processes; does nothing in other threads."""
    if _running.jobs is not None and _running.job is not None:
        _running.jobs.tell(_running.job, "progress", fields)


class Reports(dramatiq.Middleware):
    """Publishes what happens to each message.

    Args:
        publisher: which to use, or the URL of the gateway's Redis
        results: whether ``completed`` has what the actor returned
        messages: whether ``failed`` and ``retrying`` have the error's text
    """

    def __init__(self, publisher: Publisher | str, *, results: bool = False, messages: bool = False) -> None:
        self._jobs = Jobs(publisher, Details(results=results, messages=messages))

    def before_enqueue(self, broker: Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        if _running.job is not None and _running.job.owner is not None:
            message.options.setdefault(OWNER, _running.job.owner)
        retries = message.options.get("retries", 0)
        if message.options.get(TOLD) != retries:
            message.options[TOLD] = retries
            self._jobs.tell(_job(message), "retrying" if retries else "queued", error=sys.exc_info()[1] if retries else None)

    def before_process_message(self, broker: Broker, message: dramatiq.MessageProxy) -> None:
        _running.jobs, _running.job, _running.error = self._jobs, _job(message), None
        self._jobs.tell(_job(message), "started")

    def after_process_message(
        self, broker: Broker, message: dramatiq.MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        _running.error = exception
        if exception is None and not message.failed:
            self._jobs.tell(_job(message), "completed", {"result": result})

    def after_skip_message(self, broker: Broker, message: dramatiq.MessageProxy) -> None:
        self._jobs.tell(_job(message), "failed", error="Skipped")

    def after_ack(self, broker: Broker, message: dramatiq.MessageProxy) -> None:
        _running.job = _running.error = None

    def after_nack(self, broker: Broker, message: dramatiq.MessageProxy) -> None:
        self._jobs.tell(_job(message), "failed", error=_running.error or "Rejected")
        _running.job = _running.error = None
