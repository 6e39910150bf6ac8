"""The deadlines and limits towards clients, over real sockets."""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import jwt
import pytest
import redis

from tests.support.figures import figures_now
from tests.support.kernel import needs_linux_tcp
from tests.support.servers import Server, running_gateway
from tests.support.slowness import slowness
from tests.support.waiting import eventually
from tests.support.wire import PING, Wire, frame, request, resident_bytes, upgrade, websocket

SECRET = "s" * 40
SHORT = """
import gateway.server.site as site
import gateway.transports.connections as connections
site.BODY_SECONDS = 1.0
connections.STALLED_SECONDS = 1.0
connections.CHECK_SECONDS = 0.2
"""

UNTOLD = (
    SHORT
    + """
import errno, fcntl
import gateway.server.transport_writer as writer
def refuse(*_):
    raise OSError(errno.ENOPROTOOPT, "Protocol not available")
fcntl.ioctl = refuse
writer._BYTES_ACKED = slice(0)
"""
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc, prlimit and more addresses than one on loopback")


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    with running_gateway(shared_redis_url, before=SHORT) as server:
        yield server
        assert "Traceback" not in server.output(), server.output()


def publish(url: str, channel: str, size: int = 10) -> None:
    with redis.Redis.from_url(url) as client:
        client.execute_command("FCALL", "notify_publish", 1, channel, json.dumps("x" * size))


# Deadlines


def closed_after(sockets: list[socket.socket], seconds: float) -> tuple[dict[socket.socket, float], dict[socket.socket, bytes]]:
    """For each connection: seconds from now until the gateway closed it, and what the gateway sent."""
    started = dripped = time.monotonic()
    ended: dict[socket.socket, float] = {}
    came = dict.fromkeys(sockets, b"")
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        while len(ended) < len(sockets) and time.monotonic() - started < seconds:
            for key, _ in selector.select(0.1):
                sock, data = cast("socket.socket", key.fileobj), b""
                with contextlib.suppress(ConnectionResetError):
                    data = sock.recv(4_096)
                came[sock] += data
                if not data:
                    ended[sock] = time.monotonic() - started
                    selector.unregister(sock)
            if time.monotonic() - dripped > 2:
                dripped = time.monotonic()
                for sock in sockets[5:]:
                    with contextlib.suppress(OSError):
                        sock.send(b"x")
    return ended, came


def test_5_000_slow_heads_are_closed_within_10_seconds_and_others_are_served(gateway: Server) -> None:
    number = min(5_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    before = resident_bytes(gateway.process.pid) if sys.platform == "linux" else 0
    latencies, over = [], threading.Event()

    def others() -> None:
        with httpx.Client() as client:
            while not over.wait(0.1):
                started = time.monotonic()
                assert client.get(gateway.http + "/livez").status_code == 200
                latencies.append(time.monotonic() - started)

    other = threading.Thread(target=others)
    other.start()
    sockets = []
    try:
        for i in range(number):
            sock = socket.create_connection(("127.0.0.1", gateway.port))
            if i >= number - 5:  # the last five are served first, and then send a head that does not end
                sock.send(request("/livez"))
                assert sock.recv(4_096).startswith(b"HTTP/1.1 200 ")
            if i >= 5:  # the first five say nothing at all
                sock.send(b"GET / HTTP/1.1\r\nHost: ")
            sockets.append(sock)

        ended, came = closed_after(sockets, 60)
        memory, busy = resident_bytes(gateway.process.pid) if sys.platform == "linux" else 0, slowness()
    finally:
        over.set()
        other.join()
        for sock in sockets:
            sock.close()

    assert len(ended) == number
    assert max(ended.values()) < 10 + 5 * busy  # the gateway checks once a second
    assert all(came[sock] == b"" for sock in sockets[:5])
    assert all(b"HTTP/1.1 408 " in came[sock] for sock in sockets[5:])
    assert max(latencies) < 4 * busy  # a fifth of a second on a quiet machine
    assert len(latencies) > 50 / busy
    assert memory - before < number * 20_000


def test_a_body_that_does_not_end_is_answered(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        answer = wire.send(request("/publish", "Content-Length: 50", method="POST") + b'{"channel":"a"').answer()

        assert (answer.status, answer.headers["connection"]) == (408, "close")


def test_an_unread_body_that_does_not_end_closes_the_connection(gateway: Server) -> None:
    with Wire(gateway.port) as wire:
        assert wire.send(request("/nothing", "Content-Length: 50", method="POST") + b"{").answer().status == 404

        assert b"HTTP/1.1 408" in wire.rest()


# Clients that stop reading


@linux
@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_reader_that_stops_is_cut_and_the_others_are_not(gateway: Server, shared_redis_url: str, transport: str) -> None:
    channel, connections = f"stalled:{transport}", f"gateway_connections{{{transport}}}"
    other = websocket(gateway.port, f"/ws?channel={channel}")
    with other, Wire(gateway.port, receive_buffer=4_096) as wire:
        assert other.message()["op"] == "ready"
        wire.send(upgrade(f"/ws?channel={channel}") if transport == "websocket" else request(f"/sse?channel={channel}"))
        assert eventually(lambda: figures_now(gateway.http)[connections] == (2 if transport == "websocket" else 1))
        before = resident_bytes(gateway.process.pid)
        for _ in range(200):
            publish(shared_redis_url, channel, 60_000)
            assert other.message()["channel"] == channel
        grown = resident_bytes(gateway.process.pid) - before

        assert eventually(lambda: figures_now(gateway.http)[connections] == (1 if transport == "websocket" else 0), 15)
        assert grown < 8_388_608  # events of 12 MB, of which the allocator keeps some
        publish(shared_redis_url, channel)
        assert other.message()["channel"] == channel
    assert "cut with 4408" in gateway.output()


@needs_linux_tcp
@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_reader_that_stops_is_cut_also_if_little_waits_for_it(gateway: Server, shared_redis_url: str, transport: str) -> None:
    channel, connections = f"little:{transport}", f"gateway_connections{{{transport}}}"
    publish(shared_redis_url, channel, 30_000)
    with Wire(gateway.port, receive_buffer=4_096) as wire:
        wire.send(upgrade(f"/ws?channel={channel}") if transport == "websocket" else request(f"/sse?channel={channel}"))

        assert eventually(lambda: figures_now(gateway.http)[connections] == 1)
        assert eventually(lambda: figures_now(gateway.http)[connections] == 0, 15)


@linux
@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_slow_reader_with_a_small_window_is_not_given_up_by_the_kernel(shared_redis_url: str, transport: str) -> None:
    channel = f"small:{transport}"
    hurry = "import gateway.server.run as r, gateway.transports.connections as c; r.UNANSWERED_MS, c.CHECK_SECONDS = 1_500, 0.2"
    with running_gateway(shared_redis_url, before=hurry) as server, Wire(server.port, receive_buffer=4_096) as wire:
        publish(shared_redis_url, channel, 60_000)
        wire.send(upgrade(f"/ws?channel={channel}") if transport == "websocket" else request(f"/sse?channel={channel}"))
        for _ in range(40):
            wire.take(1_000, at_once=1_000)
            time.sleep(0.1)

        assert len(wire.take(15_000)) == 15_000


@linux
def test_a_kernel_that_tells_nothing_of_its_connections_costs_only_those_that_stall(shared_redis_url: str) -> None:
    """As gVisor's does, in whose sandbox some clouds run containers."""
    with running_gateway(shared_redis_url, before=UNTOLD) as server, contextlib.ExitStack() as stack:
        slow, stalled = (stack.enter_context(Wire(server.port, receive_buffer=16_384)) for _ in range(2))
        for wire in (slow, stalled):
            wire.send(upgrade("/ws?channel=untold")).answer()
        for _ in range(30):
            publish(shared_redis_url, "untold", 60_000)
        for _ in range(20):
            slow.take(60_000)
            time.sleep(0.1)

        assert eventually(lambda: figures_now(server.http)["gateway_connections{websocket}"] == 1)
        assert len(slow.take(300_000)) == 300_000
        assert "Traceback" not in server.output()


@linux
def test_slow_pings_without_reading_cost_no_memory(gateway: Server) -> None:
    before = resident_bytes(gateway.process.pid)
    with Wire(gateway.port, receive_buffer=4_096) as wire:
        wire.send(upgrade())
        time.sleep(0.1)
        for _ in range(12):  # at the allowed rate, after the allowed burst
            wire.send(frame(b"x" * 125, PING) * 50)
            time.sleep(0.1)

        assert resident_bytes(gateway.process.pid) - before <= 1_048_576
        assert wire.answer().status == 101
        assert wire.frame() == (10, b"x" * 125)


# Limits on the number of connections


STREAMS = [upgrade("/ws?channel=a"), request("/sse?channel=a"), request("/poll?channel=a&wait=5&since=now")]


@pytest.fixture(scope="module")
def limited(shared_redis_url: str) -> Iterator[Server]:
    limits: dict[str, Any] = {"max_connections": "8", "max_connections_per_ip": "3", "trusted_proxies": "127.0.0.9,10.0.0.0/8"}
    with running_gateway(shared_redis_url, **limits) as server:
        yield server


def status(server: Server, data: bytes, address: str = "127.0.0.1") -> int:
    with Wire(server.port, address=address) as wire:
        return wire.send(data).answer().status


@linux
def test_one_address_has_no_more_connections_than_allowed(limited: Server) -> None:
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(Wire(limited.port)).send(data) for data in STREAMS]
        assert b"101" in first[0].take(12)
        assert b"200" in first[1].take(12)
        assert eventually(lambda: status(limited, STREAMS[0]) == 503)

        answers = [stack.enter_context(Wire(limited.port)).send(data).answer() for data in STREAMS]
        served_elsewhere = status(limited, STREAMS[0], "127.0.0.2")
        still_ready = status(limited, request("/readyz"))
        first[0].close()
        served_again = eventually(lambda: status(limited, STREAMS[0]) == 101)

    assert [answer.status for answer in answers] == [503, 503, 503]
    assert all(1 <= int(answer.headers["retry-after"]) <= 5 for answer in answers)
    assert (served_elsewhere, still_ready, served_again) == (101, 200, True)


@linux
def test_there_are_no_more_connections_than_allowed(limited: Server) -> None:
    addresses = [f"127.0.0.{10 + i % 4}" for i in range(8)]
    with contextlib.ExitStack() as stack:
        for address in addresses:
            eventually(lambda: stack.enter_context(Wire(limited.port, address=address)).send(STREAMS[0]).answer().status == 101)  # noqa: B023

        assert status(limited, STREAMS[0], "127.0.0.20") == 503
        assert status(limited, request("/livez"), "127.0.0.20") == 200
    assert eventually(lambda: status(limited, STREAMS[0], "127.0.0.20") == 101)


@linux
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.1", "203.0.113.2"),
        ("198.51.100.7, 203.0.113.3, 10.0.0.3", "203.0.113.4"),
        ("2001:db8::1", "2001:db8:0:1::1"),
    ],
    ids=["alone", "behind what the client says itself", "IPv6, counted by its network"],
)
def test_behind_a_trusted_proxy_the_address_is_the_forwarded_one(limited: Server, one: str, other: str) -> None:
    def data(forwarded: str) -> bytes:
        return upgrade("/ws?channel=a", f"X-Forwarded-For: {forwarded}")

    assert eventually(lambda: status(limited, STREAMS[0], "127.0.0.30") == 101)
    with contextlib.ExitStack() as stack:
        for number in range(3):
            wire = stack.enter_context(Wire(limited.port, address="127.0.0.9"))
            assert wire.send(data(one.replace("::1", f"::{number}"))).answer().status == 101

        assert status(limited, data(one), "127.0.0.9") == 503
        assert status(limited, data(other), "127.0.0.9") == 101
        assert status(limited, data(one), "127.0.0.40") == 101  # not trusted, so counted by its own address


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6, and sockets that take IPv4 too")
def test_a_gateway_that_listens_on_ipv6_knows_ipv4_addresses_again(shared_redis_url: str) -> None:
    settings: dict[str, Any] = {"auth": "jwt", "jwt_secret": SECRET, "host": "::", "trusted_proxies": "127.0.0.1"}
    with running_gateway(shared_redis_url, **settings) as server:
        here = httpx.get(f"{server.http}/metrics")
        through_a_proxy = httpx.get(f"{server.http}/poll", headers={"X-Forwarded-For": "203.0.113.1"})

        assert (here.status_code, through_a_proxy.status_code) == (200, 400)
        assert "(address 203.0.113.1)" in server.output()


def test_one_sub_has_no_more_connections_than_allowed(shared_redis_url: str) -> None:
    def token(sub: str) -> str:
        return jwt.encode({"sub": sub, "exp": time.time() + 60, "subscribe": ["*"]}, SECRET, "HS256")

    settings: dict[str, Any] = {"auth": "jwt", "jwt_secret": SECRET, "max_connections_per_sub": "1"}
    with running_gateway(shared_redis_url, **settings) as server, websocket(server.port, f"/ws?channel=a&token={token('ann')}") as first:
        assert first.message()["op"] == "ready"

        with websocket(server.port, f"/ws?channel=a&token={token('ann')}") as second:
            assert second.close_code() == 1013
        for path in ("sse", "poll"):
            with Wire(server.port) as wire:
                assert wire.send(request(f"/{path}?channel=a&token={token('ann')}")).answer().status == 503
        with websocket(server.port, f"/ws?channel=a&token={token('bob')}") as other:
            assert other.message()["op"] == "ready"


# Descriptors


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@linux
def test_beyond_the_limit_of_open_files_new_clients_are_refused_and_the_connected_stay(shared_redis_url: str) -> None:
    before = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))"
    with running_gateway(shared_redis_url, before=before) as server, websocket(server.port, "/ws?channel=out") as client:
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (200, 200)
        assert "GATEWAY_MAX_CONNECTIONS is 16000, but only 200 files may be open" in server.output()
        assert client.message()["op"] == "ready"
        crowd = [Wire(server.port) for _ in range(300)]
        started = cpu_seconds(server.process.pid)
        time.sleep(1)

        publish(shared_redis_url, "out")
        assert client.message()["channel"] == "out"
        assert cpu_seconds(server.process.pid) - started < 0.3
        for wire in crowd:
            wire.close()
        assert eventually(lambda: quiet_status(server) == 200)
        assert "Traceback" not in server.output()


@linux
def test_when_descriptors_run_out_the_connected_stay_and_the_gateway_recovers(shared_redis_url: str) -> None:
    with running_gateway(shared_redis_url) as server, websocket(server.port, "/ws?channel=files") as client:
        assert client.message()["op"] == "ready"
        pid = server.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        files = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))
        crowd = [Wire(server.port) for _ in range(100)]
        started = cpu_seconds(pid)
        time.sleep(1)

        publish(shared_redis_url, "files")
        assert client.message()["channel"] == "files"
        assert cpu_seconds(pid) - started < 0.3
        for wire in crowd:
            wire.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert eventually(lambda: quiet_status(server) == 200)
        assert "Traceback" not in server.output()


def quiet_status(server: Server) -> int:
    try:
        return httpx.get(server.http + "/livez").status_code
    except httpx.TransportError:
        return 0
