"""Measuring: start a server, connect clients, publish events, and read from /proc what that cost the server's processes (Linux only)."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import psutil
import redis

from gateway.embedded import free_port
from loadtest.compare.target import FLOOR, ROOM, Place, Publish, Target, environment
from loadtest.compare.work import Row, Work

HERE: Final = Path(__file__).parent
START_SECONDS: Final = 15.0
SETTLE_SECONDS: Final = 0.5
SPREAD: Final = 7919  # a prime: multiplied by it, successive numbers visit all rooms in an order unlike that of their connections
SILENT_SECONDS: Final = 10  # without an event: the clients give up


class Failed(Exception):
    """A server did not start, or did not deliver every event."""


def compile_programs(folder: Path) -> None:
    """Compile the clients and the floor, both in C, into this folder."""
    for name in ("subscribers", "floor"):
        subprocess.run(["cc", "-O2", "-o", folder / name, HERE / f"{name}.c"], check=True)


def run(target: Target, work: Work, folder: Path, redis_url: str) -> Row:
    """Measure one server at one kind of work, once.

    Args:
        folder: of the compiled programs

    Raises:
        Failed: naming the reason, if the server does not start or not all events arrive.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own, started(target, Path(own), folder, redis_url) as (place, server):
        redis_server = _redis_process(redis_url)
        before, empty = cpu(server), memory(server)
        with _clients(target, work, place.port, folder) as printed:
            time.sleep(SETTLE_SECONDS)
            connected, full, recorded = cpu(server), memory(server), cpu(redis_server)
            with _publisher(target, place) as publish:
                _publish_all(publish, work)
            figures = _figures(printed.readline())
            delivered, published = cpu(server), cpu(redis_server)  # before the clients leave, which costs the server something, too
        if figures["events"] != work.deliveries or figures["closed"]:
            raise Failed(f"{figures['events']} of {work.deliveries} events arrived, {figures['closed']} clients were closed")
        return Row(
            name=target.name,
            us_per_event=(delivered - connected) / work.deliveries / 1e3,
            us_in_redis=(published - recorded) / work.deliveries / 1e3 if target.publish_path is None else 0.0,
            us_per_connection=(connected - before) / work.clients / 1e3,
            kib_per_connection=(full - empty) / work.clients / 1024,
            p50=figures["p50"] / 1e3,
            p99=figures["p99"] / 1e3,
        )


@contextlib.contextmanager
def started(target: Target, own: Path, programs: Path, redis_url: str) -> Iterator[tuple[Place, psutil.Process]]:
    """Run a server, and yield where it listens and its process.

    Args:
        own: a folder of its own
        programs: the folder of the compiled programs

    Raises:
        Failed: if it does not listen in time.
    """
    folder = programs if target is FLOOR else own
    place = Place(port=free_port(), folder=folder, redis_url=redis_url)
    with (own / "log").open("w+") as log:
        process = subprocess.Popen(target.command(place), stdout=log, stderr=log, env=environment(), cwd=HERE.parent.parent)
        try:
            _wait(process, place.port, own / "log")
            time.sleep(SETTLE_SECONDS)  # the rest of its start is not to be measured
            yield place, psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"it ended with {process.returncode}: {log.read_text()[-300:].strip()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Failed(f"nothing listens after {START_SECONDS:.0f} s: {log.read_text()[-300:].strip()}")


@contextlib.contextmanager
def _clients(target: Target, work: Work, port: int, programs: Path) -> Iterator[IO[str]]:
    """Connect the clients, and yield what they print, once all of them are ready."""
    command = [programs / "subscribers", port, work.clients, work.deliveries, SILENT_SECONDS, target.ready]
    command += [target.request(port, work.room), *([] if target.say is None else [target.say])]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdout is not None
        try:
            ready = clients.stdout.readline().split()
            if ready != ["ready", str(work.clients)]:
                raise Failed(f"{ready[1] if ready else 'none'} of {work.clients} clients became ready")
            yield clients.stdout
        finally:
            clients.kill()


def _figures(line: str) -> dict[str, int]:
    """The figures in the clients' last line by their names: ``events <n> closed <n> ...``."""
    words = line.split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}


@contextlib.contextmanager
def _publisher(target: Target, place: Place) -> Iterator[Publish]:
    path = target.publish_path
    if path is None:
        with redis.Redis.from_url(place.redis_url) as client:
            yield lambda room, event: client.execute_command("FCALL", "notify_publish", 1, room, event)
        return
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)

    def post(room: str, event: str) -> None:
        connection.request("POST", path.replace(ROOM, room), target.body(room, event), dict(target.headers))
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise Failed(f"publishing was answered with {answer.status}")

    with contextlib.closing(connection):
        yield post


def _publish_all(publish: Publish, work: Work) -> None:
    began = time.monotonic()
    for number in range(work.events):
        time.sleep(max(0.0, began + number / work.rate - time.monotonic()))
        room = work.room.replace("#", str(number * SPREAD % work.rooms))
        publish(room, json.dumps({"type": "progress", "data": {"sent": f"^{time.time_ns()}^", "pad": "x" * work.padding}}))


def _redis_process(url: str) -> psutil.Process:
    with redis.Redis.from_url(url) as client:
        return psutil.Process(client.info("server")["process_id"])


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu(process: psutil.Process) -> int:
    """Nanoseconds of CPU, user and system, that a process and its children have used.

    From ``schedstat``, because ``/proc/<pid>/stat`` counts in hundredths of a second.
    """
    total = 0
    for each in _tree(process):
        for thread in Path(f"/proc/{each.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((thread / "schedstat").read_text().split()[0])
    return total


def memory(process: psutil.Process) -> int:
    """Bytes that a process and its children hold; memory that several of them share is counted once."""
    total: int = sum(each.memory_full_info().pss for each in _tree(process))
    return total
