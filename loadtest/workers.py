"""Workers: where locust runs as several processes, each judges its own users at the end, and the master waits for what they found.

locust's master does not: when the time is over it sends its workers away, and what is lost at the end is found after that.
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
    """The workers of a run, as the master sees them."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._judged: set[str] = set()

    def begin(self, ids: Iterable[str]) -> None:
        """A run begins with these; others may join."""
        self._begun = set(ids)
        self._judged = set()

    def take(self, client_id: str, data: dict[str, Any]) -> None:
        """A worker has reported. For locust's ``worker_report``."""
        self._begun.add(client_id)
        if data.get(JUDGED):
            self._judged.add(client_id)

    def judge(self, runner: Any, seconds: float) -> None:
        """Have all of them judge, and wait until they have, or are gone."""
        runner.send_message(JUDGE)
        with gevent.Timeout(seconds, False):
            while any((client := runner.clients.get(id)) and client.state != STATE_MISSING for id in self.silent):
                gevent.sleep(0.1)

    @property
    def silent(self) -> set[str]:
        """Those that have not said how it went."""
        return self._begun - self._judged


def tell_master(environment: Any) -> None:
    """Report all that was counted up to now, and that it is judged."""
    runner = environment.runner
    report: dict[str, Any] = {JUDGED: True}
    environment.events.report_to_master.fire(client_id=runner.client_id, data=report)
    runner.client.send(Message("stats", report, runner.client_id))
