"""TCP_NODELAY, SO_SNDBUF, TCP_NOTSENT_LOWAT: what is set, how much the kernel buffers for a slow client, what an event costs.

uv run --group loadtest python loadtest/experiments/socket-options/measure.py        a minute and a half; needs ss

Each option is set on the listening socket, from which its connections inherit it, in place of what the gateway sets itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import redis

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gateway.embedded import embedded_server  # noqa: E402 - the path had to be set first
from loadtest.compare.measure import compile_programs, memory, run, started  # noqa: E402
from loadtest.compare.target import GATEWAY, Place, Target  # noqa: E402
from loadtest.compare.work import Work  # noqa: E402

OPTIONS: Final = {
    "none": (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**31 - 1),
    "SO_SNDBUF 4 KiB": (socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096),  # the kernel doubles it
    "SO_SNDBUF 64 KiB": (socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536),
    "TCP_NOTSENT_LOWAT 32 KiB": (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 32_768),
    "TCP_NOTSENT_LOWAT 128 KiB": (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 131_072),
}
SLOW: Final = 100
EVENTS: Final = 200
EVENT_BYTES: Final = 8_192
TOGETHER: Final = Work(clients=2_000, events=60, rate=15)


def serve() -> None:
    """Run the gateway with the option named in OPTION."""
    listen = socket.socket.listen

    def small(self: socket.socket, backlog: int = 128) -> None:
        level, name, size = OPTIONS[os.environ["OPTION"]]
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**31 - 1)  # none
        self.setsockopt(level, name, size)
        listen(self, backlog)

    socket.socket.listen = small  # type: ignore[assignment, method-assign]
    from gateway.cli import main  # noqa: PLC0415

    main(sys.argv[1:])


def with_option(target: Target, option: str) -> Target:
    """The gateway with an option."""

    def command(place: Place) -> list[str]:
        words = list(target.command(place))
        at = words.index("-m")
        return ["env", f"OPTION={option}", *words[1:at], __file__, *words[at + 2 :]]

    return replace(target, command=command)


def held(port: int) -> tuple[int, int]:
    """KiB for each client that the kernel buffers, on the gateway's side and on the client's."""
    lines = subprocess.run(["ss", "-tmnH", f"( sport = :{port} or dport = :{port} )"], capture_output=True, text=True, check=True).stdout
    sides: dict[bool, list[int]] = {True: [], False: []}
    for local, sizes in re.findall(r"^ESTAB +\d+ +\d+ +\S+:(\d+) .*?skmem:\((.*?)\)", lines.replace("\n\t", " "), re.MULTILINE):
        figures = dict(re.findall(r"([a-z]+)(\d+)", sizes))
        sides[int(local) == port].append(int(figures["w"] if int(local) == port else figures["r"]))
    return tuple(sum(each) // SLOW // 1024 for each in (sides[True], sides[False]))  # type: ignore[return-value]


async def slow(port: int, url: str, head: bytes) -> tuple[int, int]:
    """Connect clients that read nothing, publish more than is buffered for them, and return what ``held`` finds."""
    clients = []
    for _ in range(SLOW):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
        writer.write(head)
        await reader.readuntil(b"ready")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        clients.append(writer)
    with redis.Redis.from_url(url) as client:
        for _ in range(EVENTS):
            client.execute_command("FCALL", "notify_publish", 1, "room", json.dumps({"type": "rows", "data": "x" * EVENT_BYTES}))
            await asyncio.sleep(0.005)
    await asyncio.sleep(1)
    found = held(port)
    for writer in clients:
        writer.transport.abort()
    return found


def nodelay(target: Target, folder: Path, url: str) -> int:
    """How many times TCP_NODELAY is set for a connection."""
    log = folder / "strace"
    with tempfile.TemporaryDirectory(dir=folder) as own, started(target, Path(own), folder, url) as (place, server):
        tracer = subprocess.Popen(["strace", "-f", "-e", "trace=setsockopt", "-p", str(server.pid), "-o", log], stderr=subprocess.DEVNULL)
        time.sleep(1)
        with socket.create_connection(("127.0.0.1", place.port)) as client:
            client.sendall(target.request(place.port).encode())
            client.recv(100)
            time.sleep(0.5)
        tracer.terminate()
        tracer.wait()
    return log.read_text().count("TCP_NODELAY, [1]")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_server() as url:
        programs = Path(folder)
        compile_programs(programs)
        print(f"TCP_NODELAY is set {nodelay(GATEWAY[0], programs, url)} times for a connection")
        rows = {option: [] for option in OPTIONS}
        for _ in range(2):
            for option in OPTIONS:
                rows[option].append(run(with_option(GATEWAY[0], option), TOGETHER, programs, url))
        for option in OPTIONS:
            target = with_option(GATEWAY[0], option)
            with tempfile.TemporaryDirectory(dir=folder) as own, started(target, Path(own), programs, url) as (place, server):
                empty = memory(server)
                ours, theirs = asyncio.run(slow(place.port, url, target.request(place.port).encode()))
                process = (memory(server) - empty) // SLOW // 1024
            costs = " ".join(f"{row.us_per_event:.2f}" for row in rows[option])
            p99 = median(row.p99 for row in rows[option])
            print(
                f"{option}: {costs} us/event, p99 {p99:.0f} ms; a client that takes nothing: "
                f"{process} KiB in the gateway, {ours} KiB in its kernel, {theirs} KiB in the client's"
            )


if __name__ == "__main__":
    serve() if len(sys.argv) > 1 else main()
