"""The load test: browsers that follow jobs and shared channels, and the workers that publish on them.

    uv run --group loadtest locust -f loadtest/locustfile.py --host http://localhost:8000

Name user classes behind it to have only those, e.g. ``... --headless -u 500 -r 100 -t 60s WebSocketFollower Publisher``.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any, ClassVar

import gevent
from locust import User, constant, events, task
from locust.runners import MasterRunner, WorkerRunner

from loadtest.clients.polling import PollingStream
from loadtest.clients.sse import SseStream
from loadtest.clients.stream import Stream
from loadtest.clients.websocket import WebSocketStream
from loadtest.following import Following
from loadtest.ledger import Ledger
from loadtest.options import add_options
from loadtest.reader import Reader
from loadtest.run import PUBLISH_SECONDS, Run
from loadtest.summary import faults, summary
from loadtest.workers import JUDGE, Workers, tell_master

PROGRESS = 10

log = logging.getLogger("loadtest")
events.init_command_line_parser.add_listener(add_options)


def run_of(environment: Any) -> Run:
    """The run of this process."""
    run: Run = environment.loadtest_run
    return run


@events.init.add_listener
def listen(environment: Any, **_: Any) -> None:
    """Master and workers speak about the verdict; and it is given before locust's own last steps: the last listener is called first."""
    environment.events.quitting.add_listener(judge)
    if isinstance(environment.runner, MasterRunner):
        environment.loadtest_workers = Workers()
        environment.events.worker_report.add_listener(environment.loadtest_workers.take)
    elif isinstance(environment.runner, WorkerRunner):
        environment.runner.register_message(JUDGE, settle, concurrent=True)


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Every process that has users publishes on channels of its own; so each gets one publisher."""
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        Publisher.fixed_count = max(1, len(runner.clients.ready))
        environment.loadtest_workers.begin(client.id for client in runner.clients.ready)
        return
    environment.loadtest_run = Run(environment.parsed_options, environment.host, environment.events)


@events.test_stopping.add_listener
def settle(environment: Any, **_: Any) -> None:
    """While all users are still there, see whether they get what is theirs."""
    if isinstance(environment.runner, MasterRunner):
        environment.loadtest_workers.judge(environment.runner, PUBLISH_SECONDS + environment.parsed_options.patience)
    elif getattr(environment, "loadtest_run", None) is not None:
        run_of(environment).settle()
        if isinstance(environment.runner, WorkerRunner):
            tell_master(environment)


def judge(environment: Any, **_: Any) -> None:
    """Say how it went; exit with 1 if anything was lost or came twice."""
    environment.runner.stop()  # where a signal ends the run, the users are still there
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0  # the master judges for all
        return
    silent = len(environment.loadtest_workers.silent) if isinstance(environment.runner, MasterRunner) else 0
    log.info(summary(environment.stats.entries, silent))
    if faults(environment.stats.entries, silent):
        environment.process_exit_code = 1


class Follower(User):
    """A page that stays on a shared channel, with all others of its process."""

    abstract = True
    stream: ClassVar[type[Stream]]
    shared = 0  # how many there were, so that they spread over the channels

    @task
    def follow(self) -> None:
        run = run_of(self.environment)
        Follower.shared += 1
        ledger = run.ledgers[Follower.shared % len(run.ledgers)]
        following = Following(
            lambda: self.stream(run.target),
            ledger.channel,
            Reader(ledger, None),
            run.events,
            since="now",
            churn=run.options.churn,
        )
        run.followings.add(following)
        try:
            following.follow(until_final=False)
        finally:
            run.followings.discard(following)


class Job(User):
    """A page that started a job and waits for its end, with the worker that does it: queued, started, progress, completed."""

    abstract = True
    stream: ClassVar[type[Stream]]
    wait_time = constant(1)

    @task
    def work(self) -> None:
        run = run_of(self.environment)
        ledger = Ledger(f"jobs:{uuid.uuid4().hex}")
        publishing = run.publishing()
        if not run.stopping.is_set():
            publishing.publish(ledger, "queued")
        following = Following(lambda: self.stream(run.target), ledger.channel, Reader(ledger, 0), run.events, since="0")
        run.followings.add(following)
        worker = gevent.spawn(self._publish, run, publishing, ledger)
        page = gevent.spawn(following.follow, until_final=True)
        try:
            worker.get()
            if run.stopping.is_set():
                run.over.wait()
            page.join(run.options.patience)
            following.judge_end()
        finally:
            gevent.killall([worker, page])
            run.followings.discard(following)

    @staticmethod
    def _publish(run: Run, publishing: Any, ledger: Ledger) -> None:
        pause = run.options.job_seconds / (PROGRESS + 2)
        steps: list[tuple[str, str | None]] = [("started", None), *[("progress", "progress")] * PROGRESS]
        for type, label in steps:
            if run.stopping.wait(pause):
                return
            publishing.publish(ledger, type, collapse=label)
        if not run.stopping.wait(pause):
            publishing.publish(ledger, "completed", final=True)


class WebSocketFollower(Follower):
    stream = WebSocketStream
    weight = 3


class SseFollower(Follower):
    stream = SseStream
    weight = 3


class PollingFollower(Follower):
    stream = PollingStream
    weight = 1


class WebSocketJob(Job):
    stream = WebSocketStream
    weight = 3


class SseJob(Job):
    stream = SseStream
    weight = 3


class PollingJob(Job):
    stream = PollingStream
    weight = 1


class Publisher(User):
    """The worker that publishes on the shared channels of its process, one after the other, ``--rate`` events a second."""

    fixed_count = 1

    @task
    def publish(self) -> None:
        run = run_of(self.environment)
        publishing = run.publishing()
        began, number = time.monotonic(), 0
        while not run.stopping.wait(max(0.0, began + number / run.options.rate - time.monotonic())):
            publishing.publish(run.ledgers[number % len(run.ledgers)], "message")
            number += 1
        run.over.wait()
