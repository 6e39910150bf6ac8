"""Workers: where locust runs as several processes, the master waits until each of them has checked its own users at the end.

By itself locust's master stops its workers as soon as the time is over, before they can find what was lost at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import gevent
from locust.rpc import Message
from locust.runners import STATE_MISSING

JUDGE: Final = "loadtest_judge"
JUDGED: Final = "loadtest_judged"


class Workers:
    """The master's view of the workers of a run."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._judged: set[str] = set()

    def begin(self, ids: Iterable[str]) -> None:
        """Start a run with these workers; others may join."""
        self._begun = set(ids)
        self._judged = set()

    def take(self, client_id: str, data: dict[str, Any]) -> None:
        """Take a worker's report. A listener of locust's ``worker_report``."""
        self._begun.add(client_id)
        if data.get(JUDGED):
            self._judged.add(client_id)

    def judge(self, runner: Any, seconds: float) -> None:
        """Ask all workers to check their users, and wait until each has or is gone."""
        runner.send_message(JUDGE)
        with gevent.Timeout(seconds, False):
            while any((client := runner.clients.get(id)) and client.state != STATE_MISSING for id in self.silent):
                gevent.sleep(0.1)

    @property
    def silent(self) -> set[str]:
        """The ids of the workers that have not reported the result of their check."""
        return self._begun - self._judged


def tell_master(environment: Any) -> None:
    """Send a worker's statistics to the master, with the mark that its users have been checked."""
    runner = environment.runner
    report: dict[str, Any] = {JUDGED: True}
    environment.events.report_to_master.fire(client_id=runner.client_id, data=report)
    runner.client.send(Message("stats", report, runner.client_id))
