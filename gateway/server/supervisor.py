"""Supervisor: the process that starts the workers, replaces those that die, and passes signals on to them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from gateway import exposition
from gateway.server.drain import LEAVE

logger = logging.getLogger("gateway.server")

# For a worker to answer its supervisor, and to start when another one takes its place. Some on a small share of a core need more than
# uvicorn's 5 s for that, and would be killed and started again for ever. In a restart by SIGHUP some would be left as they were.
WORKER_SECONDS: Final = 10
_ENDS: Final = frozenset((signal.SIGINT, signal.SIGTERM))


class _Ending(threading.Event):
    """Set by uvicorn, and as soon as its queue of signals holds one that ends it.

    uvicorn does not look into that queue while it replaces the workers, which takes as long as all their drains one after the other.
    """

    def __init__(self, queue: list[int]) -> None:
        super().__init__()
        self._queue = queue

    def is_set(self) -> bool:
        return super().is_set() or not _ENDS.isdisjoint(self._queue)


@contextmanager
def _tried_again() -> Iterator[None]:
    """For what starts workers: the system may have no process, descriptor or memory left for a moment. The others live on meanwhile."""
    try:
        yield
    except OSError as error:
        logger.warning("no worker can be started now: %s", error)


class Supervisor(Multiprocess):
    """uvicorn's supervisor, but it ends also while it replaces workers, passes a second signal on to them, and outlives a failed start.

    A worker that it replaces leaves the port to the others while it drains.
    """

    _leaving: Process | None = None  # the worker whose place another one has taken
    _asked = 0  # how many signals have come; uvicorn checks twice a second, and may find two at once

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.should_exit = _Ending(self.signal_queue)

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            # Python would wait for the workers at its end. They would live on without anybody who replaces them or heeds a signal.
            logger.critical("the workers have no supervisor any more, all end: %s", error, exc_info=not isinstance(error, OSError))
            self.terminate_all()
            self.join_all()
            sys.exit(1)

    def init_processes(self) -> None:
        super().init_processes()
        self._close_copies()

    def keep_subprocess_alive(self) -> None:
        before = [(worker, worker.process.is_alive()) for worker in self.processes]
        began = time.monotonic()
        with _tried_again():  # half a second later; until then the dead worker keeps its place
            super().keep_subprocess_alive()
        waited = time.monotonic() - began >= WORKER_SECONDS
        self._close_copies()
        for (worker, was_alive), now in zip(before, self.processes, strict=True):
            if now is not worker:
                hung = waited and was_alive and worker.exitcode == -signal.SIGKILL  # uvicorn has killed it
                why = f"did not answer for {WORKER_SECONDS} s" if hung else _ending(worker.exitcode or 0)
                logger.warning("worker %s %s, and worker %s takes its place", worker.pid, why, now.pid)
        exposition.add_up_dead([worker.process.pid for worker in self.processes if worker.process.pid is not None])

    def _close_copies(self) -> None:
        # uvicorn keeps a copy of each worker's end of the pipe. While that is open, the end of a worker that dies before it has answered
        # goes unnoticed, and for WORKER_SECONDS no other worker is replaced and no signal heeded.
        for worker in self.processes:
            worker.child_conn.close()

    def handle_signals(self) -> None:
        with _tried_again():  # with the next signal
            super().handle_signals()

    def restart_all(self) -> None:
        for i, worker in enumerate(self.processes):
            successor = Process(self.config, self.sockets)
            successor.start()
            if not successor.wait_until_ready(WORKER_SECONDS, self.should_exit):
                successor.kill()
                successor.join()
                if not self.should_exit.is_set():
                    logger.error("worker %s did not start, so no further worker is replaced", successor.pid)
                return
            self.processes[i] = successor
            self._dismiss(worker)

    def _dismiss(self, worker: Process) -> None:
        """Wait until a worker has drained, or until a signal ends all of them."""
        self._leaving = worker
        if worker.process.is_alive() and worker.pid is not None:
            os.kill(worker.pid, LEAVE)
        while worker.process.is_alive() and not self.should_exit.is_set():
            worker.process.join(0.1)

    def handle_int(self) -> None:
        self.handle_term()

    def handle_term(self) -> None:
        self._asked += 1
        self.should_exit.set()

    def join_all(self) -> None:
        passed_on = 1
        workers = [*self.processes, self._leaving] if self._leaving else self.processes
        while any(worker.process.is_alive() for worker in workers):
            for worker in workers:
                worker.process.join(0.1)
            while self.signal_queue:  # one by one, or a signal that comes in between would be lost
                self._asked += self.signal_queue.pop() in _ENDS
            if self._asked > passed_on:
                passed_on = self._asked
                for worker in workers:
                    worker.terminate()


def _ending(status: int) -> str:
    """How a process ended, by the exit status that multiprocessing tells."""
    if status >= 0:
        return f"has ended with {status}"
    return "was ended by " + next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
