"""Serving in one process and in several workers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import io
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from redis.asyncio import Redis
from uvicorn.supervisors import Multiprocess

from gateway.exposition import FOLDER
from gateway.server import run as module
from gateway.server.run import COLLECT_AFTER, UNSENT_BYTES, WORKER_SECONDS, _Config, _figures_folder, _Workers, bind
from gateway.settings import Settings
from tests.conftest import publisher
from tests.support.clients import ids, take, websocket
from tests.support.figures import figures_when, until_live
from tests.support.servers import running_gateway, workers_of


def test_the_listening_socket_is_bound_at_once() -> None:
    with bind(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bind(Settings(port=port))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux: TCP_NOTSENT_LOWAT")
def test_the_kernel_buffers_little_for_a_client_that_takes_nothing() -> None:
    sent = 0
    with bind(Settings(port=0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(listener.getsockname())
        with listener.accept()[0] as connection, contextlib.suppress(BlockingIOError):
            connection.setblocking(False)
            while sent < 16 * UNSENT_BYTES:
                sent += connection.send(b"x" * 8_192)

    assert sent < 2 * UNSENT_BYTES


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux: TCP_USER_TIMEOUT")
def test_the_kernel_gives_a_vanished_client_up_after_half_a_minute() -> None:
    with bind(Settings(port=0)) as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_a_port_can_be_bound_again_at_once_after_its_connections() -> None:
    with bind(Settings(port=0)) as listener, socket.create_connection(listener.getsockname()) as client:
        port = listener.getsockname()[1]
        listener.accept()[0].close()  # the side that closes first keeps the address for a minute
        assert client.recv(1) == b""

    bind(Settings(port=port)).close()


def test_the_garbage_collector_is_set_to_run_seldom() -> None:
    before = gc.get_threshold()
    try:
        _Config(lambda: None, log_config=None).load()

        assert gc.get_threshold() == COLLECT_AFTER
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_workers_are_served_without_a_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(**_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    monkeypatch.delenv(FOLDER, raising=False)
    served = False
    with _figures_folder():
        served = FOLDER not in os.environ

    assert served
    assert "(read-only): /metrics tells what one worker has counted" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_the_address_and_a_low_limit_of_open_files_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    served: list[list[socket.socket]] = []

    class Served:
        def __init__(self, _config: object, sockets: list[socket.socket] | None = None) -> None:
            self._sockets = sockets

        def run(self, sockets: list[socket.socket] | None = None) -> None:
            served.append(sockets or self._sockets or [])

    monkeypatch.setattr(module, "log_config", lambda *_: None)
    monkeypatch.setattr(module, "raise_limit", lambda: 100)
    monkeypatch.setattr("uvicorn.Server", Served)
    monkeypatch.setattr(module, "_Workers", Served)
    caplog.set_level("INFO")
    settings = Settings(port=0, workers=workers, max_connections=1_000, log_format="json")
    with bind(settings) as listener:
        port = listener.getsockname()[1]
        if workers == 1:
            module.serve(lambda: None, settings, listener)
        else:
            module._supervise(settings, listener)

    assert f"gateway on 127.0.0.1 port {port}" in caplog.text
    assert "GATEWAY_MAX_CONNECTIONS is 1000, but only 100 files may be open" in caplog.text
    assert served == [[listener]]


async def test_all_workers_deliver_the_same_events(redis_url: str, redis: Redis) -> None:
    with running_gateway(redis_url, "--workers", "3") as server:
        publish = publisher(redis)
        first = await publish("jobs:1", "started")
        following = [asyncio.ensure_future(take(websocket(server.http, "channel=jobs:1&since=0"), 2)) for _ in range(20)]
        await until_live(server.http, 20)
        second = await publish("jobs:1", "completed", final=True)

        assert [ids(messages) for messages in await asyncio.gather(*following)] == [[first, second]] * 20


def test_a_worker_that_dies_is_replaced_and_the_log_says_so(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2") as server:
        dead = workers_of(server)
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        server.wait_ready(20)

        assert len(dead) == 2
        assert not set(dead) & set(workers_of(server))
        assert all(f"worker {pid} was ended by SIGKILL, and worker" in server.output() for pid in dead)


def test_a_worker_that_hangs_is_told_from_one_that_ended(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def worker(pid: int, exitcode: int, *, alive: bool) -> Any:
        process = SimpleNamespace(pid=pid, is_alive=lambda: alive)
        return SimpleNamespace(pid=pid, exitcode=exitcode, process=process, child_conn=io.StringIO())

    def replace(workers: _Workers) -> None:
        workers.processes[:3] = [worker(pid, 0, alive=True) for pid in (11, 12, 13)]

    monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", replace)
    workers = _Workers.__new__(_Workers)
    workers.processes = [worker(1, -9, alive=True), worker(2, -6, alive=False), worker(3, 1, alive=False), worker(4, 0, alive=True)]
    workers.keep_subprocess_alive()

    assert caplog.messages == [
        f"worker 1 did not answer for {WORKER_SECONDS} s, and worker 11 takes its place",
        "worker 2 was ended by SIGABRT, and worker 12 takes its place",
        "worker 3 has ended with 1, and worker 13 takes its place",
    ]


def test_workers_end_when_their_supervisor_is_killed(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2") as server:
        workers_of(server)
        server.process.kill()
        server.process.wait()

        deadline = time.monotonic() + 30
        while _listens(server.port):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def open_of(sockets: list[websockets.ClientConnection]) -> int:
    """How many of them are open, as seen from this side."""
    return sum(socket.state is websockets.State.OPEN for socket in sockets)


def test_workers_that_need_long_to_start_are_waited_for(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than half a second and uvicorn's 5 s, after which each would be killed and started again.
    starts = tmp_path / "starts"
    slowly = f"import sys, time\nif '--multiprocessing-fork' in sys.orig_argv: open({str(starts)!r}, 'a').write('x'); time.sleep(6)"
    (tmp_path / "sitecustomize.py").write_text(slowly)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    patient = "from gateway.server import run; run.WORKER_SECONDS = 60"  # on a busy machine even 10 s may be too few

    with running_gateway(redis_url, "--workers", "2", before=patient) as server:
        assert len(workers_of(server)) == 2

    assert starts.read_text() == "xx"
    assert inspect.signature(uvicorn.Config).parameters["timeout_worker_healthcheck"].default < WORKER_SECONDS


def test_a_worker_that_dies_while_it_starts_is_replaced_at_once(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = f"import os, sys, time\nif '--multiprocessing-fork' in sys.orig_argv:\n  try: os.mkdir({str(tmp_path / 'died')!r})\n"
    dies += "  except FileExistsError: pass\n  else: time.sleep(1); os._exit(1)"
    (tmp_path / "sitecustomize.py").write_text(dies)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with running_gateway(
        redis_url, "--workers", "2", before="from gateway.server import run; run.WORKER_SECONDS = 60", wait=False
    ) as server:
        assert len(workers_of(server)) == 2
        assert (tmp_path / "died").exists()


def test_a_worker_whose_secret_has_become_wrong_says_so_in_a_line_and_the_others_serve_on(redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s" * 32)
    with running_gateway(redis_url, "--workers", "2", auth="jwt", jwt_secret_file=str(file), log_format="json") as server:
        alive, dead = workers_of(server)
        file.write_text("short")
        os.kill(dead, signal.SIGKILL)
        _wait(lambda: "this worker cannot start: GATEWAY_JWT_SECRET: the value is wrong" in server.output())
        os.kill(server.process.pid, signal.SIGHUP)
        _wait(lambda: "aborting the restart" in server.output())
        assert httpx.get(f"{server.http}/livez").status_code == 200
        assert alive in workers_of(server)

        file.write_text("s" * 32)
        _wait(lambda: server.output().count("events get through Redis") == 3)

        assert all(line.startswith("{") for line in server.output().splitlines())


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_any_worker_shows_the_metrics_of_all_and_no_counter_falls_when_one_dies(
    redis_url: str, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running_gateway(redis_url, "--workers", "2") as server:
        sockets = await asyncio.gather(*(websockets.connect(f"{server.ws}/ws?channel=jobs:1&since=now") for _ in range(16)))
        for socket in sockets:
            assert "ready" in await socket.recv()
        await publisher(redis)("jobs:1")
        for socket in sockets:
            assert "message" in await socket.recv()
        both = await figures_when(server.http, lambda now: now["gateway_events_out_total"] == 16 == now["gateway_connections"])
        dead = workers_of(server)[0]
        os.kill(dead, signal.SIGKILL)
        async with asyncio.timeout(30):
            while dead in workers_of(server) or len(workers_of(server)) < 2:
                await asyncio.sleep(0.02)
        left = await figures_when(server.http, lambda now: now["gateway_connections"] == open_of(sockets))
        files = sorted(path.name.partition("-")[0] for path in tmp_path.glob("gateway-*/*.json"))
        still_open = open_of(sockets)
        for socket in sockets:
            await socket.close()

    assert both["gateway_events_out_total{websocket}"] == both["gateway_connections{websocket}"] == 16
    assert left["gateway_connections"] == still_open
    assert left["gateway_events_out_total{websocket}"] == 16
    assert "dead.json" in files
    assert str(dead) not in files
