"""Two processes on one port: one inherited socket, or a socket for each with SO_REUSEPORT?

uv run --group loadtest python loadtest/experiments/one-process-per-core/measure.py        a minute

Measures how 2,000 WebSockets are spread over the processes, what a handshake costs, and what becomes of clients whose connections are
waiting in the kernel for a process that dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Final

import psutil

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server, free_port  # noqa: E402 - the path had to be set first
from loadtest.compare.measure import cpu  # noqa: E402
from loadtest.compare.target import GATEWAY, environment  # noqa: E402

WORKERS: Final = 2
CLIENTS: Final = 2_000
WAITING: Final = 100
ROUNDS: Final = 3
AT_ONCE: Final = 100

Start = Callable[[int, dict[str, str]], Sequence[Sequence[str]]]


def inherited(port: int, environ: dict[str, str]) -> Sequence[Sequence[str]]:
    """One command that starts all processes: ``gateway serve --workers``."""
    return [[sys.executable, "-m", "gateway", "serve", "--port", str(port), "--workers", str(WORKERS)]]


def reuse_port(port: int, environ: dict[str, str]) -> Sequence[Sequence[str]]:
    """A command for each process, whose listening sockets share the port."""
    return [[sys.executable, __file__, "--port", str(port)]] * WORKERS


def serve() -> None:
    """Run a gateway whose listening socket shares its port with others."""
    bind = socket.socket.bind

    def shared(self: socket.socket, address: tuple[str, int]) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind(self, address)

    socket.socket.bind = shared  # type: ignore[assignment, method-assign]
    from gateway.cli import main  # noqa: PLC0415

    main(["serve", *sys.argv[1:]])


@contextmanager
def gateways(start: Start, redis_url: str) -> Iterator[tuple[int, list[psutil.Process]]]:
    """The port, and the processes that serve it."""
    port = free_port()
    settings = {"REDIS_URL": redis_url, "AUTH": "none", "LOG_LEVEL": "error", "DRAIN_SECONDS": "0"}
    environ = environment() | {f"GATEWAY_{name}": value for name, value in settings.items()}
    parents = [psutil.Popen(command, env=environ, cwd=ROOT) for command in start(port, environ)]
    try:
        deadline = time.monotonic() + 20
        serving: list[psutil.Process] = []
        while len(serving) < WORKERS and time.monotonic() < deadline:
            time.sleep(0.2)
            tree = [each for parent in parents for each in (parent, *parent.children(recursive=True))]
            serving = [each for each in tree if _connected(each, redis_url)]
        assert len(serving) == WORKERS, serving
        time.sleep(1)
        yield port, serving
    finally:
        for parent in parents:
            for child in parent.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGCONT)
            with suppress(psutil.NoSuchProcess):
                parent.terminate()
        for parent in parents:
            parent.wait(15)


def _connected(process: psutil.Process, redis_url: str) -> bool:
    port = int(redis_url.rpartition(":")[2])
    return any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp"))


def sockets(process: psutil.Process, port: int) -> int:
    """How many clients a process has."""
    return sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in process.net_connections("tcp"))


async def connect(port: int, number: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open WebSockets on one channel, up to ``AT_ONCE`` at the same time."""
    head, room = GATEWAY[0].request(port).encode(), asyncio.Semaphore(AT_ONCE)

    async def one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with room:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            await reader.readuntil(b'"ready"')
            return reader, writer

    return await asyncio.gather(*(one() for _ in range(number)))


def spread(start: Start, redis_url: str) -> tuple[list[int], float]:
    """How many clients each process has, and microseconds of CPU for each handshake."""
    with gateways(start, redis_url) as (port, serving), asyncio.Runner() as runner:
        before = sum(map(cpu, serving))
        clients = runner.run(connect(port, CLIENTS))
        used = (sum(map(cpu, serving)) - before) / 1e3 / CLIENTS
        found = [sockets(each, port) for each in serving]
        for _, writer in clients:
            writer.transport.abort()
        return found, used


def death(start: Start, redis_url: str) -> tuple[int, int]:
    """Pause one process, let clients connect, then kill it: how many clients are served, and how many are not."""

    async def watch(port: int, victim: psutil.Process) -> tuple[int, int]:
        victim.send_signal(signal.SIGSTOP)
        clients = [asyncio.create_task(connect(port, 1)) for _ in range(WAITING)]
        await asyncio.sleep(2)
        victim.kill()
        done, waiting = await asyncio.wait(clients, timeout=5)
        for each in waiting:
            each.cancel()
        served = [each for each in done if each.exception() is None]
        return len(served), WAITING - len(served)

    with gateways(start, redis_url) as (port, serving):
        return asyncio.run(watch(port, serving[-1]))


def main() -> None:
    with embedded_server() as redis_url, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rounds = [(start, *spread(start, redis_url)) for _ in range(ROUNDS) for start in (inherited, reuse_port)]
        for start in (inherited, reuse_port):
            shares = ["/".join(map(str, found)) for each, found, _ in rounds if each is start]
            costs = [used for each, _, used in rounds if each is start]
            print(f"{start.__name__}: {', '.join(shares)} clients; {median(costs):.0f} us for each; ", end="")
            served, lost = death(start, redis_url)
            print(f"of {WAITING} that came while one process stood still before it died, {served} were served and {lost} were not")


if __name__ == "__main__":
    serve() if len(sys.argv) > 1 else main()
