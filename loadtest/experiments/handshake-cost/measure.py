"""What does a handshake cost? CPU of the gateway for each connection, from accept to its ready notice, when many connect at once.

    uv run python loadtest/experiments/handshake-cost/measure.py
    uv run python loadtest/experiments/handshake-cost/measure.py --tree ../before --tree . --kinds ws-none-own,sse-none-own

A kind is made of transport, token (``none``, ``known``, ``new``) and channel (``own``, ``shared``). Several trees (checkouts) take turns
in each round, because other work on the machine disturbs them. The CPU comes from Linux's ``schedstat``, in nanoseconds.
"""

from __future__ import annotations

import argparse
import itertools
import select
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from gateway.embedded import embedded_server
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

KINDS = ["-".join(kind) for kind in itertools.product(("ws", "sse"), ("none", "known", "new"), ("own", "shared"))]
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
SWEEP_SECONDS = 3.3  # until the gateway has unsubscribed the channels of the round before
DEADLINE_SECONDS = 60.0

numbers = itertools.count()


def cpu(server: Server) -> int:
    """Nanoseconds of CPU that the process has used."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


class Storm:
    """Opens connections, this many at once, and waits for their ready notices."""

    def __init__(self, server: Server, requests: list[bytes]) -> None:
        self._address = ("127.0.0.1", server.port)
        self._requests = requests
        self._sockets: list[socket.socket] = []

    def open(self, at_once: int) -> None:
        """Return when all are ready."""
        epoll = select.epoll()
        waiting = iter(self._requests)
        pending: dict[int, tuple[socket.socket, bytes]] = {}
        received: dict[int, bytes] = {}
        ready, deadline = 0, time.monotonic() + DEADLINE_SECONDS
        while ready < len(self._requests):
            for request in itertools.islice(waiting, at_once - len(pending)):
                client = self._connect()
                epoll.register(client.fileno(), select.EPOLLOUT)
                pending[client.fileno()] = client, request
            assert time.monotonic() < deadline, f"{ready} of {len(self._requests)} are ready"
            for number, happened in epoll.poll(1.0):
                client, request = pending[number]
                if happened == select.EPOLLOUT:
                    client.send(request)
                    epoll.modify(number, select.EPOLLIN)
                    continue
                data = client.recv(65_536)
                assert data, received.get(number)
                received[number] = received.get(number, b"") + data
                if b"ready" in received[number]:
                    epoll.unregister(number)
                    del pending[number], received[number]
                    ready += 1
        epoll.close()

    def _connect(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        self._sockets.append(client)
        with suppress(BlockingIOError):
            client.connect(self._address)
        return client

    def close(self) -> None:
        for client in self._sockets:
            client.close()


def requests(kind: str, count: int, since: str) -> Iterator[bytes]:
    """The heads of so many connections."""
    transport, token, channel = kind.split("-")
    known = make_token(exp=4e9, subscribe=["room*"])
    for number in itertools.islice(numbers, count):
        name = "room" if channel == "shared" else f"room:{number}"
        text = known if token == "known" else make_token(exp=4e9, subscribe=["room*"], jti=str(number))
        head = f"GET /{transport}?channel={name}&since={since} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        head += UPGRADE if transport == "ws" else "Accept: text/event-stream\r\n"
        head += "" if token == "none" else f"Authorization: Bearer {text}\r\n"
        yield f"{head}\r\n".encode()


def one_round(server: Server, kind: str, options: argparse.Namespace) -> float:
    """Microseconds of CPU for each connection."""
    storm = Storm(server, list(requests(kind, options.connections, options.since)))
    before = cpu(server)
    storm.open(options.at_once)
    time.sleep(0.05)
    used = cpu(server) - before
    storm.close()
    return used / options.connections / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", action="append", default=[], help="checkout whose gateway is measured, several take turns")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--at-once", type=int, default=200, help="handshakes on their way")
    parser.add_argument("--since", default="now")
    options = parser.parse_args()
    trees = [str(Path(tree).resolve()) for tree in options.tree or [Path(__file__).parents[3]]]
    kinds = options.kinds.split(",")
    found: dict[tuple[str, str], list[float]] = {(kind, tree): [] for kind in kinds for tree in trees}
    with ExitStack() as stack:
        url = stack.enter_context(embedded_server())
        servers: dict[tuple[str, bool], Server] = {}
        for tree, closed in {(tree, "-none-" not in kind) for kind, tree in found}:
            settings = {"auth": "jwt", "jwt_secret": SECRET} if closed else {}
            settings["prefix"] = f"tree{trees.index(tree)}"  # what an older one has in Redis may look different
            before = f"import sys\nsys.path.insert(0, {tree!r})"
            servers[tree, closed] = stack.enter_context(running_gateway(url, before=before, log_level="warning", **settings))
        free = dict.fromkeys(servers.values(), 0.0)  # -> when it has unsubscribed the channels of its last round
        for number in range(-1, options.rounds):
            for (kind, tree), costs in found.items():
                server = servers[tree, "-none-" not in kind]
                time.sleep(max(0.0, free[server] - time.monotonic()))
                cost = one_round(server, kind, options)
                free[server] = time.monotonic() + (SWEEP_SECONDS if kind.endswith("own") else 0.3)
                if number >= 0:  # the first round only warms up
                    costs.append(cost)
    for (kind, tree), values in found.items():
        every = " ".join(f"{value:.0f}" for value in values)
        print(f"{kind:16} {statistics.median(values):6.1f} us  least {min(values):6.1f}  ({every})  {Path(tree).name}")


if __name__ == "__main__":
    main()
