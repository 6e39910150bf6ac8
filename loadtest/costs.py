"""Costs: measure what ``scale.py`` counts with, on this machine: a gateway, and a real Valkey under a flood of pipelined commands.

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

BATCH: Final = 500  # commands on their way at once
JOBS: Final = 5_000
ROUNDS: Final = 3
ID_REPLY: Final = len(b"$16\r\n") + 16 + 2
NEW_TOKEN_US: Final = 25.0  # loadtest/experiments/handshake-cost
CLIENTS: Final = 2_000
IDLE_CLIENTS: Final = 8_000
IDLE_SECONDS: Final = 8.0  # a twentieth of them has a heartbeat in each second, and all are looked at every other one
MAX_EVENT_BYTES: Final = 65_536


def command(*words: object) -> bytes:
    """One command as Redis reads it."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def job(number: int) -> list[bytes]:
    """A job's life: queued, started, 10 times progress, completed."""

    def event(type: str, data: object, *options: object, final: bool = False) -> bytes:
        body = json.dumps({"type": type, "data": data} | ({"final": True} if final else {}), separators=(",", ":"))
        return command("FCALL", "notify_publish", 1, f"jobs:{number}", body, *options)

    steps = [event("progress", {"percent": 10 * step, "text": "converting page after page"}, "COLLAPSE", "progress") for step in range(10)]
    done = event("completed", {"url": f"/files/{number}"}, final=True)
    return [event("queued", None), event("started", {"worker": "w1"}), *steps, done]


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """A bare one: a client library costs more than Redis does."""
    address = urlsplit(url)
    with closing(socket.create_connection((address.hostname, address.port), timeout=30)) as sock:
        yield sock


def flood(sock: socket.socket, commands: list[bytes], reply: int | None) -> float:
    """Send them in batches, and await the replies of each: so many bytes for a command, or whatever comes before the answer to a PING.

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
    """Microseconds of CPU that Redis used, from its own account."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._began = self._read()

    def _read(self) -> float:
        used: dict[str, Any] = self._client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"]) * 1e6

    def per(self, count: int) -> float:
        """Since it was made, for each of so many."""
        return (self._read() - self._began) / count


@contextmanager
def listening(url: str, channels: Iterable[str]) -> Iterator[None]:
    """A connection that follows channels and throws away what comes."""
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
    """What Redis's part costs, and how many events a second it took at most."""
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
    """Microseconds of CPU that a gateway with so many clients uses in a second in which nothing happens."""
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
    """What the gateway's part costs."""
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
    """All of them, once."""
    with embedded_server() as url:
        costs, most = redis_costs(url)
    with embedded_server() as url:
        gateway = gateway_costs(url)
    names = ("connection", "connection_kib", "delivery", "announcement", "idle")
    return replace(costs, **{name: getattr(gateway, name) for name in names}), most


def main() -> None:
    """Print the middle of some rounds as the line that goes into scale.py."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rounds = [measure() for _ in range(ROUNDS)]
    found = {each.name: round(median(getattr(costs, each.name) for costs, _ in rounds), 2) for each in fields(Costs)}
    print("MEASURED: Final =", Costs(**found))
    most = median(events for _, events in rounds)
    print(f"Redis took {most:,.0f} events a second over one connection, {BATCH} commands at once.")


if __name__ == "__main__":
    main()
