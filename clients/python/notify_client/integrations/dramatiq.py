"""Dramatiq: a middleware, and every message of a broker reports.

    from notify_client.integrations.dramatiq import Reports
    broker.add_middleware(Reports("redis://localhost:6379"))

A message's id is its job's id. Its owner is an option, which the messages sent while it is processed inherit:

    resize.send_with_options(args=(42,), notify_owner="ann")

In an actor that is no coroutine, ``progress(percent=40)``. The text of a retry is that of the exception; the end is ``after_nack``,
because an exception alone does not say whether there will be another try.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import dramatiq
from dramatiq.broker import Broker

from notify_client.integrations.jobs import OWNER, Job, Jobs, Words
from notify_client.publisher import Publisher

TOLD = "notify_told"  # up to which retry the queueing of a message was told: one that was delayed is queued twice


class _Running(threading.local):
    jobs: Jobs | None = None
    job: Job | None = None
    error: BaseException | None = None


_running = _Running()


def _job(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Job:
    return Job(message.message_id, message.actor_name, message.options.get(OWNER))


def progress(**fields: Any) -> None:
    """Report how far the message is that this thread processes. Elsewhere it does nothing."""
    if _running.jobs is not None and _running.job is not None:
        _running.jobs.tell(_running.job, "progress", fields)


class Reports(dramatiq.Middleware):
    """Publishes what happens to each message.

    Args:
        publisher: or the URL of the gateway's Redis
        results: whether ``completed`` has what the actor returned
        messages: whether ``failed`` and ``retrying`` have the error's text
    """

    def __init__(self, publisher: Publisher | str, *, results: bool = False, messages: bool = False) -> None:
        self._jobs = Jobs(publisher, Words(results=results, messages=messages))

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
