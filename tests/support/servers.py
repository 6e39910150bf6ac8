"""Run gateways as processes, and check that they never print a secret."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from gateway.embedded import free_port
from tests.support.processes import processes

START_SECONDS = 60.0

# No gateway may print a token, a ticket or a key: after every test its output is searched for them.
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}")
_TICKET = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{43}(?![\w-])")


class Server:
    """A running gateway: its addresses, its process and its output."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}"
        self._log = log

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until it can deliver."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.http}/readyz").status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"the gateway was not ready after {seconds} s:\n{self.output()}")

    def stop(self) -> None:
        """Have it end, even if a test has halted it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the gateway did not stop:\n{self.output()}") from None

    def exposed(self) -> str:
        """What everybody on this machine can read while it runs: its command line and its metrics."""
        exposed = ""
        with contextlib.suppress(OSError):  # not on Linux, or ended
            exposed += Path(f"/proc/{self.process.pid}/cmdline").read_text().replace("\0", " ")
        with contextlib.suppress(httpx.HTTPError):  # it is shutting down, or full
            exposed += httpx.get(f"{self.http}/metrics", timeout=10).text
        return exposed


def secrets_in(text: str, settings: Mapping[str, str]) -> list[str]:
    """The lines of a text that contain a token, a ticket, or a secret of these settings."""
    secrets = [settings.get("jwt_secret", "").strip(), *re.findall(r"://[^/@]*:([^/@]+)@", settings["redis_url"])]
    known = [secret for secret in secrets if secret]
    return [line for line in text.splitlines() if _TOKEN.search(line) or _TICKET.search(line) or any(secret in line for secret in known)]


PATIENT = "from gateway.server import supervisor; supervisor.WORKER_SECONDS = 60"
"""For ``before``: waits longer for workers to start, because on a busy machine even 10 s may be too few."""


@contextlib.contextmanager
def running_gateway(
    redis_url: str, *arguments: str, plain: bool = False, wait: bool = True, before: str = "", **settings: str
) -> Iterator[Server]:
    """Run ``gateway serve`` on a free port.

    Args:
        redis_url: its Redis
        arguments: further command line arguments
        plain: serve the application with uvicorn and its own protocols instead of ours
        wait: until it can deliver
        before: Python code to run in the process first, such as one that shortens deadlines
        settings: by their lower-case names without ``GATEWAY_``
    """
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    chosen = {"redis_url": redis_url, "auth": "none", "log_level": "info", "drain_seconds": "0"} | settings
    environ |= {f"GATEWAY_{name.upper()}": value for name, value in chosen.items()}
    command = [sys.executable, *_program(before, plain=plain), "--port", str(port), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
        server = Server(port, process, log)
        try:
            if wait:
                server.wait_ready()
            yield server
            process.send_signal(signal.SIGCONT)
            exposed = server.exposed() if process.poll() is None else ""
        finally:
            server.stop()
        shown = secrets_in(server.output() + exposed, chosen)
        assert not shown, f"a secret was shown: {shown[0]}"


def _program(before: str, *, plain: bool) -> list[str]:
    """What Python is to run, as its arguments."""
    if plain:
        return ["-m", "uvicorn", "--factory", "gateway.app:create_app", "--http", "h11", "--loop", "asyncio", "--log-level", "warning"]
    if before:
        return ["-c", f"{before}\nfrom gateway.cli import main\nmain()", "serve"]
    return ["-m", "gateway", "serve"]


def workers_of(server: Server, count: int = 2) -> list[int]:
    """The process ids of a gateway's workers, as soon as this many of them serve."""
    deadline = time.monotonic() + START_SECONDS
    while server.output().count("events get through Redis") < count:
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.02)
    return [process.pid for process in processes() if process.parent == server.process.pid and "spawn_main" in process.command]
