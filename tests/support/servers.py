"""Gateways as processes of their own, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from gateway.embedded import free_port

START_SECONDS = 20.0


class Server:
    """A running gateway: its addresses, its process and what it has printed."""

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


@contextlib.contextmanager
def running_gateway(
    redis_url: str, *arguments: str, plain: bool = False, wait: bool = True, before: str = "", **settings: str
) -> Iterator[Server]:
    """Run ``gateway serve`` on a free port.

    Args:
        redis_url: its Redis
        arguments: more of the command line
        plain: under uvicorn's own protocols instead, without direct writes
        wait: until it can deliver
        before: Python to run in it first, such as shorter deadlines
        settings: by their lower-case names without ``GATEWAY_``
    """
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    chosen = {"redis_url": redis_url, "auth": "none", "log_level": "info", "drain_seconds": "0"} | settings
    environ |= {f"GATEWAY_{name.upper()}": value for name, value in chosen.items()}
    if plain:
        command = ["-m", "uvicorn", "--factory", "gateway.app:create_app", "--http", "h11", "--loop", "asyncio", "--log-level", "warning"]
    elif before:
        command = ["-c", f"{before}\nfrom gateway.cli import main\nmain()", "serve"]
    else:
        command = ["-m", "gateway", "serve"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command, "--port", str(port), *arguments], env=environ, stdout=output, stderr=output
            )
        server = Server(port, process, log)
        try:
            if wait:
                server.wait_ready()
            yield server
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"the gateway did not stop:\n{server.output()}") from None


def workers_of(server: Server) -> list[int]:
    """The process ids of a gateway's workers."""
    listed = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True).stdout.split()
    lines = {pid: subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, text=True, check=False).stdout for pid in listed}
    return [int(pid) for pid, line in lines.items() if "spawn_main" in line]
