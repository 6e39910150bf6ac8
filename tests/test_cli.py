"""The command line, as a newcomer and as an operator use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from gateway.embedded import embedded_server
from tests.support.servers import running_gateway


def run(*words: str, timeout: float = 20, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "gateway", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("words", [(), ("serve",), ("demo",), ("publish",), ("watch",), ("check",), ("token",), ("doctor",)])
def test_each_command_helps(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")

    assert result.returncode == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("publish", "jobs:1"), "JSON"),
        (("publish", "a b", "1"), "channel 'a b'"),
        (("publish", "jobs:1", "{nope"), "not JSON"),
        (("publish", "jobs:1", "1", "--keep", "0"), "--keep"),
        (("watch",), "CHANNEL"),
        (("doctor", "ftp://a"), "ftp://a"),
        (("doctor", "http://a?token=x"), "http://"),
        (("watch", "jobs:1", "--since", "noon"), "cursor 'noon'"),
        (("serve", "--port", "x"), "--port"),
        (("nope",), "nope"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(words: tuple[str, ...], named: str) -> None:
    result = run(*words, redis_url="redis://127.0.0.1:1")

    assert result.returncode == 2
    assert named in result.stderr


def test_publish_prints_the_id_and_watch_the_event(redis_url: str) -> None:
    published = run("publish", "jobs:42", '{"type":"completed","data":{"url":"/files/42"},"final":true}', "--key", "k", redis_url=redis_url)
    again = run("publish", "jobs:42", '"other"', "--key", "k", redis_url=redis_url)
    watched = run("watch", "jobs:42", "--until-final", redis_url=redis_url)

    id = published.stdout.strip()
    assert published.returncode == watched.returncode == 0
    assert again.stdout.strip() == id
    assert json.loads(watched.stdout) == {
        "type": "completed",
        "data": {"url": "/files/42"},
        "final": True,
        "channel": "jobs:42",
        "id": id,
    }


@pytest.mark.parametrize("words", [("publish", "jobs:1", "1"), ("watch", "jobs:1"), ("check",)])
def test_a_redis_that_is_away_is_an_error_of_one_line(words: tuple[str, ...]) -> None:
    result = run(*words, redis_url="redis://127.0.0.1:1", auth="none")

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "GATEWAY_REDIS_URL: Redis does not answer" in result.stderr


def test_serve_says_what_to_do_without_settings() -> None:
    result = run("serve")

    assert result.returncode == 1
    assert "GATEWAY_REDIS_URL: not set" in result.stderr
    assert "GATEWAY_AUTH: jwt, and no key for it" in result.stderr


def test_serve_names_a_port_that_is_taken(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--port", str(taken.getsockname()[1]), redis_url=redis_url, auth="none")

    assert result.returncode == 1
    assert "cannot listen on 127.0.0.1" in result.stderr


def test_check_names_every_problem_a_line_each() -> None:
    with embedded_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as url:
        result = run("check", redis_url=url, auth="none")
    wrong = run("check", port="x", nope="1")

    assert result.returncode == wrong.returncode == 1
    assert ["maxmemory-policy" in line or "appendonly" in line for line in result.stderr.splitlines()] == [True, True]
    assert len(wrong.stderr.splitlines()) == 2


def test_check_is_content_with_a_redis_that_keeps_its_promises() -> None:
    with embedded_server("--appendonly", "yes") as url:
        result = run("check", redis_url=url, auth="none")

    assert (result.returncode, result.stdout) == (0, "all is well\n")


def test_watch_ends_at_ctrl_c(redis_url: str) -> None:
    environ = os.environ | {"GATEWAY_REDIS_URL": redis_url}
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "watch", "jobs:1"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stderr is not None
        assert '"ready"' in watch.stderr.readline()
        watch.send_signal(signal.SIGINT)

        assert watch.wait(5) == 130
        assert watch.stderr.read() == ""


def test_the_doctor_says_what_is_wrong_and_what_to_change() -> None:
    result = run("doctor", "http://127.0.0.1:9", "--patience", "1")

    assert result.returncode == 1
    assert result.stdout.startswith("WRONG  http://127.0.0.1:9 cannot be reached")
    assert "         nginx    " in result.stdout
    assert result.stdout.endswith("One thing is wrong.\n")


def test_the_doctor_is_content_with_a_good_gateway() -> None:
    with embedded_server() as url, running_gateway(url) as server:
        result = run("doctor", server.http, "--patience", "1")

    assert (result.returncode, result.stderr) == (0, "")
    assert "WRONG" not in result.stdout
    assert result.stdout.endswith("All is well.\n")
