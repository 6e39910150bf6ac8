"""The load test: browsers that follow jobs and shared channels, and the workers that publish on them.

    uv run --group loadtest locust -f loadtest/locustfile.py --host http://localhost:8000

To run only some kinds of users, name their classes at the end: ``... --headless -u 500 -r 100 -t 60s WebSocketFollower Publisher``.
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

PROGRESS = 10  # progress events of a job

log = logging.getLogger("loadtest")
events.init_command_line_parser.add_listener(add_options)


def run_of(environment: Any) -> Run:
    """The run that the users of this locust process share."""
    run: Run = environment.loadtest_run
    return run


@events.init.add_listener
def listen(environment: Any, **_: Any) -> None:
    """Register the final check, and the messages with which master and workers agree on it.

    ``quitting`` calls its last listener first, so the verdict is printed before locust's own last steps.
    """
    gevent.get_hub().loop.update_now()  # ``--run-time`` counts from the loop's clock, which has not moved during the imports
    environment.events.quitting.add_listener(judge)
    if isinstance(environment.runner, MasterRunner):
        environment.loadtest_workers = Workers()
        environment.events.worker_report.add_listener(environment.loadtest_workers.take)
    elif isinstance(environment.runner, WorkerRunner):
        environment.runner.register_message(JUDGE, settle, concurrent=True)


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Start a run, with one publisher in every process that has users, because each process publishes on its own channels."""
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        Publisher.fixed_count = max(1, len(runner.clients.ready))
        environment.loadtest_workers.begin(client.id for client in runner.clients.ready)
        return
    environment.loadtest_run = Run(environment.parsed_options, environment.host, environment.events)


@events.test_stopping.add_listener
def settle(environment: Any, **_: Any) -> None:
    """Before the users stop, wait until each has received what is due to it; report the rest as lost."""
    if isinstance(environment.runner, MasterRunner):
        environment.loadtest_workers.judge(environment.runner, PUBLISH_SECONDS + environment.parsed_options.patience)
    elif getattr(environment, "loadtest_run", None) is not None:
        run_of(environment).settle()
        if isinstance(environment.runner, WorkerRunner):
            tell_master(environment)


def judge(environment: Any, **_: Any) -> None:
    """Print the verdict; exit with 1 if anything was lost or came twice."""
    environment.runner.stop()  # after a signal the users are still running
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0  # the master gives the verdict for all
        return
    silent = len(environment.loadtest_workers.silent) if isinstance(environment.runner, MasterRunner) else 0
    log.info(summary(environment.stats.entries, silent))
    if faults(environment.stats.entries, silent):
        environment.process_exit_code = 1


class Follower(User):
    """A page that stays on one of the channels that the users of its process share."""

    abstract = True
    stream: ClassVar[type[Stream]]
    started = 0  # how many followers have started, to spread them evenly over the channels

    @task
    def follow(self) -> None:
        run = run_of(self.environment)
        Follower.started += 1
        ledger = run.ledgers[Follower.started % len(run.ledgers)]
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
    """A page that started a job and waits for its end, and the worker that publishes it: queued, started, progress, completed."""

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
            following.report_missing()
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
    """The worker that publishes ``--rate`` events a second on the shared channels of its process, in turn."""

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
