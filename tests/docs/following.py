"""Run the commands of a page in order, in one shell environment, against a Valkey and a gateway of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx

from tests.docs.blocks import ROOT
from tests.docs.table import HERE, LASTING, NOT_RUN, Lasting, NotRun

SECONDS = 60.0
ENDED_BY_US = {0, 130, -signal.SIGINT, -signal.SIGTERM}


class Follower:
    """Types the commands of a page, as a reader would.

    Args:
        folder: the working directory, which has the files of the checkout
        environ: the environment at the beginning
        values: replacements for the placeholders in ``{}`` in the table
    """

    def __init__(self, folder: Path, environ: dict[str, str], values: dict[str, str]) -> None:
        self.folder = folder
        self._values = values | {"folder": str(folder)}
        self._environ = environ | {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix}
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for path in ROOT.iterdir():
            if not path.name.startswith("."):
                (self.folder / path.name).symlink_to(path)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def type(self, command: str) -> str:
        """Run a command, or what the table runs instead; its output."""
        row = row_of(command)
        if row is not None:
            if row.instead is None:
                return ""
            command = re.sub(row.command, row.instead, command, count=1)
            if row.tool and not _there(row.tool):
                return ""
        command = self._here(command)
        for lasting in LASTING:
            if re.search(lasting.command, command):
                return self._begin(command, lasting)
        return self._run(command)

    def _here(self, command: str) -> str:
        for written, here in HERE.items():
            command = re.sub(written, here, command)
        return re.sub(r"\{(\w+)\}", lambda found: self._values.get(found[1], found[0]), command)

    def _run(self, command: str) -> str:
        after = self.folder / ".environ"
        script = f"set -aeuo pipefail\n{command}\nenv -0 > {after}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\nends with {done.returncode}:\n{done.stdout}{done.stderr}"
        self._environ = dict(line.split("=", 1) for line in after.read_text().split("\0") if line)
        return done.stdout

    def _begin(self, command: str, lasting: Lasting) -> str:
        """Start a lasting command and wait until it works; keep it running until the end of the page if the page needs it."""
        running = self._running.enter_context(self._started(command)) if lasting.stays else None
        if running is not None:
            return running.wait(self._values, lasting)
        with self._started(command) as short:
            return short.wait(self._values, lasting)

    @contextlib.contextmanager
    def _started(self, command: str) -> Iterator[Running]:
        log = self.folder / f".log{time.monotonic_ns()}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec env {command}"],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Running(command, process, log)
            process.send_signal(signal.SIGINT)  # to uv, which passes it on
            assert process.wait(SECONDS) in ENDED_BY_US, f"{command}\nends with {process.returncode}:\n{log.read_text()}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Running:
    """A command that runs until it is ended."""

    def __init__(self, command: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self._command = command
        self._process = process
        self._log = log

    def wait(self, values: dict[str, str], lasting: Lasting) -> str:
        """Wait until it shows that it works; its output."""
        address = lasting.ready.format(**values) if "{" in lasting.ready else None
        deadline = time.monotonic() + SECONDS
        while not (_answers(address) if address else re.search(lasting.ready, self._log.read_text())):
            told = f"{self._command}\n{self._log.read_text()}"
            assert self._process.poll() is None, f"ended with {self._process.returncode}: {told}"
            assert time.monotonic() < deadline, f"nothing that says {lasting.ready} after {SECONDS:g} s: {told}"
            time.sleep(0.05)
        return self._log.read_text()


def row_of(command: str) -> NotRun | None:
    """The row for a command that is not run as it is written."""
    return next((row for row in NOT_RUN if re.search(row.command, command)), None)


def _there(tool: str) -> bool:
    return subprocess.run(["bash", "-c", f"command -v {tool}"], capture_output=True, check=False).returncode == 0


def _answers(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(address, timeout=10).status_code == 200
    return False
