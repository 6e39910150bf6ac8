"""Measure on this machine the costs that ``scale.py`` calculates with: those of a gateway, and those of a Valkey under pipelined commands.

uv run --group loadtest python loadtest/costs.py        about three minutes
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import redis

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from gateway.store.library import Library  # noqa: E402
from loadtest.compare.measure import compile_programs, cpu, run, started  # noqa: E402
from loadtest.compare.target import GATEWAY, Target  # noqa: E402
from loadtest.compare.work import Work  # noqa: E402
from loadtest.scale import Costs  # noqa: E402

BATCH: Final = 500  # commands sent before their replies are awaited
JOBS: Final = 5_000
ROUNDS: Final = 3
ID_REPLY: Final = len(b"$16\r\n") + 16 + 2  # bytes of the reply to a publish: the event's id
NEW_TOKEN_US: Final = 25.0  # to verify a token never seen before; from loadtest/experiments/handshake-cost
CLIENTS: Final = 2_000
IDLE_CLIENTS: Final = 8_000
IDLE_SECONDS: Final = 8.0  # each second a twentieth of the clients gets a heartbeat; every other second all are checked for stalled writes
MAX_EVENT_BYTES: Final = 65_536


def command(*words: object) -> bytes:
    """One command in Redis's wire format (RESP)."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def job(number: int) -> list[bytes]:
    """The commands that publish one job's events: queued, started, 10 times progress, completed."""

    def event(type: str, data: object, *options: object, final: bool = False) -> bytes:
        body = json.dumps({"type": type, "data": data} | ({"final": True} if final else {}), separators=(",", ":"))
        return command("FCALL", "notify_publish", 1, f"jobs:{number}", body, *options)

    steps = [event("progress", {"percent": 10 * step, "text": "converting page after page"}, "COLLAPSE", "progress") for step in range(10)]
    done = event("completed", {"url": f"/files/{number}"}, final=True)
    return [event("queued", None), event("started", {"worker": "w1"}), *steps, done]


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """A bare TCP connection to Redis, because a client library would use more CPU than Redis itself."""
    address = urlsplit(url)
    with closing(socket.create_connection((address.hostname, address.port), timeout=30)) as sock:
        yield sock


def flood(sock: socket.socket, commands: list[bytes], reply: int | None) -> float:
    """Send the commands in batches, and await the replies to each batch before the next.

    Args:
        reply: bytes of the reply to each command; ``None`` if they differ: then a PING ends each batch, and its answer is awaited

    Returns:
        the seconds it took
    """
    began = time.perf_counter()
    for start in range(0, len(commands), BATCH):
        batch = commands[start : start + BATCH]
        sock.sendall(b"".join(batch) + (b"" if reply else command("PING")))
        received = bytearray()
        while not (len(received) >= reply * len(batch) if reply else received.endswith((b"+PONG\r\n", b"$4\r\npong\r\n$0\r\n\r\n"))):
            received += sock.recv(1 << 20)
        if b"-ERR" in received:
            raise RuntimeError(bytes(received[:200]).decode())
    return time.perf_counter() - began


class Meter:
    """Microseconds of CPU that Redis has used since the meter was made, as Redis itself reports them."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._began = self._read()

    def _read(self) -> float:
        used: dict[str, Any] = self._client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"]) * 1e6

    def per(self, count: int) -> float:
        """The same, divided by a number of operations."""
        return (self._read() - self._began) / count


@contextmanager
def listening(url: str, channels: Iterable[str]) -> Iterator[None]:
    """Hold a connection that is subscribed to these channels and discards what it receives."""
    with connection(url) as sock:
        flood(sock, [command("SUBSCRIBE", f"notify:{channel}") for channel in channels], None)

        def drain() -> None:
            while sock.recv(1 << 20):
                pass

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            yield
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join()


def redis_costs(url: str) -> tuple[Costs, float]:
    """The costs that arise in Redis, and the highest number of events a second it recorded."""
    with redis.Redis.from_url(url) as client, connection(url) as sock:
        library = Library("notify", MAX_EVENT_BYTES)
        for code in library.codes.values():
            client.execute_command("FUNCTION", "LOAD", "REPLACE", code)
        flood(sock, job(0) * 100, ID_REPLY)
        jobs = [publish for number in range(1, JOBS + 1) for publish in job(number)]
        empty, meter = client.info("memory")["used_memory"], Meter(client)
        seconds = flood(sock, jobs, ID_REPLY)
        publish, job_kib = meter.per(len(jobs)), (client.info("memory")["used_memory"] - empty) / JOBS / 1024
        names = [f"jobs:{number}" for number in range(1, JOBS + 1)]
        with listening(url, names):
            channel_kib = (client.info("memory")["used_memory"] - empty) / JOBS / 1024 - job_kib
            meter = Meter(client)
            flood(sock, jobs, ID_REPLY)
            push = meter.per(len(jobs)) - publish
        meter = Meter(client)
        flood(sock, [command(word, f"notify:{name}") for name in names for word in ("SUBSCRIBE", "UNSUBSCRIBE")], None)
        follow = meter.per(JOBS)
        meter = Meter(client)
        flood(sock, [command(*library.command("reads", 1, name, "last", 65_536)) for name in names] * 4, None)
        follow += meter.per(4 * JOBS)
    return Costs(publish=publish, push=max(0.0, push), follow=follow, job_kib=job_kib, channel_kib=channel_kib), len(jobs) / seconds


def idle_cost(target: Target, folder: Path, url: str, clients: int) -> float:
    """Microseconds of CPU a second that a gateway with so many clients uses while no event is published."""
    with tempfile.TemporaryDirectory(dir=folder) as own, started(target, Path(own), folder, url) as (place, server):
        words = [folder / "subscribers", place.port, clients, 1, 60, "ready", target.request(place.port, "room-#")]
        with subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if (ready := process.stdout.readline().split()) != ["ready", str(clients)]:
                raise RuntimeError(f"of {clients} clients became ready: {ready}")
            time.sleep(1)
            before, began = cpu(server), time.monotonic()
            time.sleep(IDLE_SECONDS)
            used = (cpu(server) - before) / 1e3 / (time.monotonic() - began)
            process.kill()
    return used


def gateway_costs(url: str) -> Costs:
    """The costs that arise in the gateway."""
    target = GATEWAY[0]
    with tempfile.TemporaryDirectory() as folder:
        compile_programs(Path(folder))
        together = run(target, Work(clients=CLIENTS, events=40, rate=15), Path(folder), url)
        alone = run(target, Work(clients=CLIENTS, events=6_000, rate=1_500, rooms=CLIENTS), Path(folder), url)
        idle = (idle_cost(target, Path(folder), url, IDLE_CLIENTS) - idle_cost(target, Path(folder), url, 1)) / IDLE_CLIENTS
    return Costs(
        connection=alone.us_per_connection + NEW_TOKEN_US,
        connection_kib=alone.kib_per_connection,
        delivery=together.us_per_event,
        announcement=max(0.0, alone.us_per_event - together.us_per_event),
        idle=max(0.0, idle),
    )


def measure() -> tuple[Costs, float]:
    """One round: all costs, and the highest number of events a second that Redis recorded."""
    with embedded_server() as url:
        costs, highest_rate = redis_costs(url)
    with embedded_server() as url:
        gateway = gateway_costs(url)
    names = ("connection", "connection_kib", "delivery", "announcement", "idle")
    return replace(costs, **{name: getattr(gateway, name) for name in names}), highest_rate


def main() -> None:
    """Print the median of some rounds, as the line that goes into scale.py."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rounds = [measure() for _ in range(ROUNDS)]
    found = {each.name: round(median(getattr(costs, each.name) for costs, _ in rounds), 2) for each in fields(Costs)}
    print("MEASURED: Final =", Costs(**found))
    rate = median(highest_rate for _, highest_rate in rounds)
    print(f"Redis recorded {rate:,.0f} events a second over one connection, {BATCH} commands in each pipeline.")


if __name__ == "__main__":
    main()
