"""The endpoints for health and metrics, and paths that do not exist."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from gateway import exposition
from gateway.embedded import find_server, free_port
from tests.support.listening import refusing_port, wait_until_it_listens
from tests.support.servers import Server, running_gateway
from tests.support.slowness import slowness
from tests.support.tokens import SECRET, make_token


def test_it_is_alive_and_ready(server: Server) -> None:
    assert httpx.get(f"{server.http}/livez").status_code == 200
    assert httpx.get(f"{server.http}/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_a_head_request_gets_only_the_head(server: Server, path: str) -> None:
    with httpx.Client(base_url=server.http) as client:
        head, whole = client.head(path), client.get(path)  # on one connection: a body too many would spoil the second answer

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_a_redis_that_hangs_makes_it_unready_and_one_that_wakes_ready_again(tmp_path) -> None:
    port = free_port()
    with subprocess.Popen([find_server(), "--port", str(port), "--dir", str(tmp_path), "--save", ""], stdout=subprocess.DEVNULL) as redis:
        try:
            with running_gateway(f"redis://127.0.0.1:{port}") as server:
                os.kill(redis.pid, signal.SIGSTOP)
                hung = time.monotonic()
                while httpx.get(f"{server.http}/readyz").status_code == 200:
                    assert time.monotonic() - hung < 6 * slowness()
                    time.sleep(0.05)
                unready = httpx.get(f"{server.http}/readyz")
                alive = httpx.get(f"{server.http}/livez")
                os.kill(redis.pid, signal.SIGCONT)
                server.wait_ready()
        finally:
            os.kill(redis.pid, signal.SIGCONT)
            redis.terminate()

    assert unready.headers["content-type"] == "application/problem+json"
    assert "Redis" in unready.json()["detail"]
    assert alive.status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "Via"])
def test_metrics_are_for_this_machine_only(server: Server, header: str) -> None:
    here = httpx.get(f"{server.http}/metrics")
    through_a_proxy = httpx.get(f"{server.http}/metrics", headers={header: "1.2.3.4"})

    assert "gateway_connections" in here.text
    assert through_a_proxy.status_code == 404


def test_metrics_are_not_for_pages_in_a_browser_on_this_machine(server: Server) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert httpx.get(f"{server.http}/metrics", headers=headers).status_code == 403


def test_an_admin_whose_token_cannot_be_checked_now_is_not_told_that_there_are_no_metrics() -> None:
    admin = {"X-Forwarded-For": "192.0.2.1", "Authorization": f"Bearer {make_token(admin=True)}"}
    with refusing_port() as port, running_gateway(f"redis://127.0.0.1:{port}", wait=False, auth="jwt", jwt_secret=SECRET) as server:
        wait_until_it_listens(server.process, server.port, server.output)
        answer = httpx.get(f"{server.http}/metrics", headers=admin)

    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert answer.json()["detail"] == "Redis is away: what was revoked is not known"


def test_metrics_are_refused_while_those_of_the_other_workers_cannot_be_read(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    monkeypatch.setenv(exposition.FOLDER, str(folder))
    with running_gateway(redis_url) as server:
        shutil.rmtree(folder)
        folder.touch()
        refused = httpx.get(f"{server.http}/metrics")
        folder.unlink()
        folder.mkdir()

        assert httpx.get(f"{server.http}/metrics").status_code == 200
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert refused.json()["detail"].startswith("the figures of the other workers cannot be read: ")
        assert "Traceback" not in server.output()


def test_a_path_that_does_not_exist_is_named(server: Server) -> None:
    answer = httpx.get(f"{server.http}/nope%0d%0a")

    assert answer.status_code == 404
    assert answer.json()["detail"] == r"path '/nope\r\n': there is nothing here"
