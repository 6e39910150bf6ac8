"""Serving in one process and in several workers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest
import websockets
from redis.asyncio import Redis

from gateway.exposition import FOLDER
from gateway.server import run as module
from gateway.server.run import ACCEPTED_AT_ONCE, COLLECT_AFTER, UNSENT_BYTES, _Config, _figures_folder, bind, server_config
from gateway.settings import Settings
from tests.conftest import publisher
from tests.support.clients import ids, take, websocket
from tests.support.figures import figures_when, until_live
from tests.support.kernel import needs_linux_tcp
from tests.support.servers import running_gateway, workers_of
from tests.support.waiting import until


def test_the_listening_socket_is_bound_at_once() -> None:
    with bind(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bind(Settings(port=port))


@needs_linux_tcp
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


def test_an_idle_connection_is_kept_for_longer_than_a_proxy_keeps_it() -> None:
    # Or the proxy would send a request on a connection that is being closed; nginx keeps one for 60 s.
    assert server_config(lambda: None, Settings()).timeout_keep_alive > 60


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


def test_the_workers_save_their_figures_in_memory_where_that_is_possible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.setattr(module, "IN_MEMORY", str(memory))
    with _figures_folder():
        possible = Path(os.environ[FOLDER])
        assert possible.is_dir()
    memory.rmdir()
    with _figures_folder():
        impossible = Path(os.environ[FOLDER])
        assert impossible.is_dir()

    assert possible.parent == memory
    assert impossible.parent == Path(tempfile.gettempdir())


def test_the_end_is_clean_though_the_folder_for_figures_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setenv(FOLDER, "")
    with monkeypatch.context() as failing, _figures_folder():
        folder = Path(os.environ[FOLDER])
        failing.setattr(os, "rmdir", fail)

    assert folder.exists()
    folder.rmdir()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_address_and_a_low_limit_of_open_files_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    served: list[tuple[int, set[object]]] = []

    class Served:
        def __init__(self, _config: object, sockets: list[socket.socket] | None = None) -> None:
            self._sockets = sockets

        def run(self, sockets: list[socket.socket] | None = None) -> None:
            handles = sockets or self._sockets or []
            served.append((len(handles), {each.getsockname() for each in handles}))

    monkeypatch.setattr(module, "log_config", lambda *_: None)
    monkeypatch.setattr(module, "raise_limit", lambda: 100)
    monkeypatch.setattr("uvicorn.Server", Served)
    monkeypatch.setattr("gateway.server.supervisor.Supervisor", Served)
    caplog.set_level("INFO")
    settings = Settings(port=0, workers=workers, max_connections=1_000, log_format="json")
    with bind(settings) as listener:
        host, port = listener.getsockname()
        if workers == 1:
            module.serve(lambda: None, settings, listener)
        else:
            module._supervise(settings, listener)

    assert f"gateway on 127.0.0.1 port {port}" in caplog.text
    assert "GATEWAY_MAX_CONNECTIONS is 1000, but only 100 files may be open" in caplog.text
    assert served == [(ACCEPTED_AT_ONCE, {(host, port)})]


def test_workers_are_served_if_their_number_comes_from_a_file(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "workers").write_text("2")

    with running_gateway(redis_url, workers_file=str(tmp_path / "workers")) as server:
        assert len(workers_of(server)) == 2


async def test_all_workers_deliver_the_same_events(redis_url: str, redis: Redis) -> None:
    with running_gateway(redis_url, "--workers", "3") as server:
        publish = publisher(redis)
        first = await publish("jobs:1", "started")
        following = [asyncio.ensure_future(take(websocket(server.http, "channel=jobs:1&since=0"), 2)) for _ in range(20)]
        await until_live(server.http, 20)
        second = await publish("jobs:1", "completed", final=True)

        assert [ids(messages) for messages in await asyncio.gather(*following)] == [[first, second]] * 20


def open_of(sockets: list[websockets.ClientConnection]) -> int:
    """How many of them are open, as seen from this side."""
    return sum(socket.state is websockets.State.OPEN for socket in sockets)


async def test_any_worker_shows_the_metrics_of_all_and_no_counter_falls_when_one_dies(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    here = f"from gateway.server import run; run.IN_MEMORY = {str(tmp_path)!r}"
    with running_gateway(redis_url, "--workers", "2", before=here) as server:
        sockets = await asyncio.gather(*(websockets.connect(f"{server.ws}/ws?channel=jobs:1&since=now") for _ in range(16)))
        for socket in sockets:
            assert "ready" in await socket.recv()
        await publisher(redis)("jobs:1")
        for socket in sockets:
            assert "message" in await socket.recv()
        both = await figures_when(server.http, lambda now: now["gateway_events_out_total"] == 16 == now["gateway_connections"])
        dead = workers_of(server)[0]
        os.kill(dead, signal.SIGKILL)
        await until(lambda: dead not in workers_of(server) and len(workers_of(server)) >= 2 and list(tmp_path.glob("gateway-*/dead.json")))
        left = await figures_when(server.http, lambda now: now["gateway_connections"] == open_of(sockets))
        files = sorted(path.name.partition("-")[0] for path in tmp_path.glob("gateway-*/*.json"))
        still_open = open_of(sockets)
        for socket in sockets:
            await socket.close()

    assert both["gateway_events_out_total{websocket}"] == both["gateway_connections{websocket}"] == 16
    assert left["gateway_connections"] == still_open
    assert left["gateway_events_out_total{websocket}"] == 16
    assert str(dead) not in files
