"""Workers that die, hang, start slowly or cannot start, and a supervisor that is killed."""

from __future__ import annotations

import inspect
import io
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.supervisors import Multiprocess

from gateway.server import supervisor as module
from gateway.server.supervisor import Supervisor
from tests.support.listening import is_listening
from tests.support.servers import PATIENT, running_gateway, workers_of
from tests.support.waiting import eventually


def test_a_worker_that_dies_is_replaced_and_the_log_says_so(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2") as server:
        dead = workers_of(server)
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        server.wait_ready()

        assert len(dead) == 2
        assert not set(dead) & set(workers_of(server))
        assert eventually(lambda: all(f"worker {pid} was ended by SIGKILL, and worker" in server.output() for pid in dead))


@pytest.mark.parametrize(("took", "killed"), [(0.05, "did not answer for 0.05 s"), (0.0, "was ended by SIGKILL")])
def test_a_worker_that_hangs_is_told_from_one_that_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, took: float, killed: str
) -> None:
    def worker(pid: int, exitcode: int, *, alive: bool) -> Any:
        process = SimpleNamespace(pid=pid, is_alive=lambda: alive)
        return SimpleNamespace(pid=pid, exitcode=exitcode, process=process, child_conn=io.StringIO())

    def replace(supervisor: Supervisor) -> None:
        time.sleep(took)
        supervisor.processes[:4] = [worker(pid, 0, alive=True) for pid in (11, 12, 13, 14)]

    monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", replace)
    monkeypatch.setattr(module, "WORKER_SECONDS", 0.05)
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.processes = [worker(1, -9, alive=True), worker(2, -9, alive=False), worker(3, 1, alive=False), worker(4, -40, alive=False)]
    supervisor.processes.append(worker(5, 0, alive=True))
    supervisor.keep_subprocess_alive()

    assert caplog.messages == [
        f"worker 1 {killed}, and worker 11 takes its place",
        "worker 2 was ended by SIGKILL, and worker 12 takes its place",
        "worker 3 has ended with 1, and worker 13 takes its place",
        "worker 4 was ended by signal 40, and worker 14 takes its place",
    ]


def test_workers_end_when_their_supervisor_is_killed_and_leave_no_file(redis_url: str, tmp_path: Path) -> None:
    here = f"from gateway.server import run; run.IN_MEMORY = {str(tmp_path)!r}"
    with running_gateway(redis_url, "--workers", "2", before=here) as server:
        workers_of(server)
        assert list(tmp_path.iterdir())
        server.process.kill()
        server.process.wait()

        assert eventually(lambda: not is_listening(server.port))
        assert eventually(lambda: not list(tmp_path.iterdir()))


def _no_worker_while(file: Path) -> str:
    """Code with which no worker can be started while this file exists, as if the system had no process left."""
    return f"""
import os, multiprocessing.util as util
def start(*arguments, start=util.spawnv_passfds):
    if os.path.exists({str(file)!r}) and any("spawn_main" in str(argument) for argument in arguments[1]):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return start(*arguments)
util.spawnv_passfds = start"""


def test_a_worker_that_cannot_be_replaced_at_once_is_replaced_later(redis_url: str, tmp_path: Path) -> None:
    full = tmp_path / "full"
    with running_gateway(redis_url, "--workers", "2", before=_no_worker_while(full)) as server:
        dead, alive = workers_of(server)
        full.touch()
        os.kill(dead, signal.SIGKILL)
        assert eventually(lambda: "no worker can be started now: " in server.output())
        full.unlink()
        after = workers_of(server, 3)

        assert len(after) == 2
        assert alive in after
        assert "Traceback" not in server.output()
    assert server.process.returncode == 0


def test_workers_that_cannot_be_replaced_on_a_signal_serve_on(redis_url: str, tmp_path: Path) -> None:
    full = tmp_path / "full"
    with running_gateway(redis_url, "--workers", "2", before=_no_worker_while(full)) as server:
        before = workers_of(server)
        full.touch()
        os.kill(server.process.pid, signal.SIGHUP)
        assert eventually(lambda: "no worker can be started now: " in server.output())

        assert workers_of(server) == before
        assert "Traceback" not in server.output()
    assert server.process.returncode == 0


def test_if_a_worker_cannot_be_started_at_first_the_others_end_and_the_log_says_why(redis_url: str, tmp_path: Path) -> None:
    full = tmp_path / "full"
    then_full = f"{_no_worker_while(full)}\nfrom gateway.server.supervisor import Process\nfirst = Process.start\n"
    then_full += f"Process.start = lambda worker: (first(worker), open({str(full)!r}, 'w').close())"
    with running_gateway(redis_url, "--workers", "2", before=then_full, wait=False) as server:
        server.process.wait(60)

        assert server.process.returncode == 1
        assert "no supervisor any more, all end: [Errno 11] Resource temporarily unavailable" in server.output()
        assert "Traceback" not in server.output()
        assert not is_listening(server.port)


def test_workers_that_need_long_to_start_are_waited_for(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than half a second and uvicorn's 5 s, after which each would be killed and started again.
    starts = tmp_path / "starts"
    slowly = f"import sys, time\nif '--multiprocessing-fork' in sys.orig_argv: open({str(starts)!r}, 'a').write('x'); time.sleep(6)"
    (tmp_path / "sitecustomize.py").write_text(slowly)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with running_gateway(redis_url, "--workers", "2", before=PATIENT) as server:
        assert len(workers_of(server)) == 2

    assert starts.read_text() == "xx"
    assert inspect.signature(uvicorn.Config).parameters["timeout_worker_healthcheck"].default < module.WORKER_SECONDS


def test_a_worker_that_dies_while_it_starts_is_replaced_at_once(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = f"import os, sys, time\nif '--multiprocessing-fork' in sys.orig_argv:\n  try: os.mkdir({str(tmp_path / 'died')!r})\n"
    dies += "  except FileExistsError: pass\n  else: time.sleep(1); os._exit(1)"
    (tmp_path / "sitecustomize.py").write_text(dies)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with running_gateway(redis_url, "--workers", "2", before=PATIENT, wait=False) as server:
        assert len(workers_of(server)) == 2
        assert (tmp_path / "died").exists()


def test_a_worker_whose_secret_has_become_wrong_says_so_in_a_line_and_the_others_serve_on(redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s" * 32)
    with running_gateway(redis_url, "--workers", "2", auth="jwt", jwt_secret_file=str(file), log_format="json") as server:
        alive, dead = workers_of(server)
        file.write_text("short")
        os.kill(dead, signal.SIGKILL)
        assert eventually(lambda: "this worker cannot start: GATEWAY_JWT_SECRET: the value is wrong" in server.output(), 60)
        os.kill(server.process.pid, signal.SIGHUP)
        assert eventually(lambda: "no further worker is replaced" in server.output(), 60)
        assert httpx.get(f"{server.http}/livez").status_code == 200
        assert alive in workers_of(server)

        file.write_text("s" * 32)
        assert eventually(lambda: server.output().count("events get through Redis") == 3, 60)

        assert all(line.startswith("{") for line in server.output().splitlines())
