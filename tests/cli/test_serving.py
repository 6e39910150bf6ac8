"""``gateway serve`` and ``gateway check``; the demo has a test of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.serving import address
from gateway.embedded import embedded_server, free_port
from gateway.settings import Settings
from tests.support.command import invoke, run
from tests.support.servers import Server
from tests.support.tokens import SECRET


def test_serve_says_what_to_do_without_settings() -> None:
    result = run("serve")

    assert result.returncode == 1
    assert "GATEWAY_REDIS_URL: not set" in result.stderr
    assert "GATEWAY_AUTH: jwt, and no key for it" in result.stderr


def test_serve_names_a_port_that_is_taken(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        results = {
            "127.0.0.1": run("serve", "--port", port, redis_url=redis_url, auth="none"),
            "localhost": run("serve", "--port", port, "--host", "localhost", redis_url=redis_url, auth="none"),
        }

    for host, result in results.items():
        assert result.returncode == 1
        assert f"cannot listen on {host} port {port}" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("streams", ["2> /dev/full", "<&- >&- 2>&-"])
def test_serve_starts_and_ends_well_though_its_log_is_on_a_full_disk_or_closed(redis_url: str, streams: str, workers: int) -> None:
    port = free_port()
    environ = os.environ | {"GATEWAY_REDIS_URL": redis_url, "GATEWAY_AUTH": "none", "GATEWAY_PORT": str(port), "GATEWAY_DRAIN_SECONDS": "0"}
    command = ["sh", "-c", f'exec "$0" -m gateway serve --workers {workers} {streams}', sys.executable]
    with subprocess.Popen(command, env=environ) as process:
        try:
            Server(port, process, Path(os.devnull)).wait_ready()
            opened = {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)}
        finally:
            process.terminate()

    assert process.returncode == 0
    assert not any(path.startswith(("socket:", "anon_inode:")) for path in opened)


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")])
def test_serve_names_its_address_as_a_browser_takes_it(host: str, url: str) -> None:
    assert address(Settings(host=host), 8000) == url


def test_check_names_every_problem_a_line_each() -> None:
    with embedded_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as url:
        result = run("check", redis_url=url, auth="none")
    wrong = run("check", port="x", nope="1", host="0.0.0.0", auth="none")

    assert result.returncode == wrong.returncode == 1
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == ["warning", "error"]
    assert ["appendonly" in result.stderr, "maxmemory-policy" in result.stderr] == [True, True]
    assert [line.split(": ")[1] for line in wrong.stderr.splitlines()] == [
        "GATEWAY_NOPE", "GATEWAY_PORT", "GATEWAY_REDIS_URL", "GATEWAY_HOST"
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", ["jwt_secret", "jwks_url_file", "jwt_secrett", "auth"])
def test_check_takes_no_wrong_key_for_a_missing_one(wrong: str) -> None:
    settings: dict[str, Any] = {wrong: "x", "redis_url": f"redis://127.0.0.1:{free_port()}"}
    found = run("check", **settings)

    assert [line.split(": ")[1] for line in found.stderr.splitlines()] == [f"GATEWAY_{wrong.upper()}", "GATEWAY_REDIS_URL"]


def test_check_looks_at_redis_also_if_other_settings_are_wrong() -> None:
    away = f"redis://127.0.0.1:{free_port()}"

    wrong = run("check", port="x", redis_url=away, auth="none")
    wrong_prefix = run("check", prefix="", redis_url=away, auth="none")

    assert wrong.returncode == wrong_prefix.returncode == 1
    assert [line.split(": ")[1] for line in wrong.stderr.splitlines()] == ["GATEWAY_PORT", "GATEWAY_REDIS_URL"]
    assert [line.split(": ")[1] for line in wrong_prefix.stderr.splitlines()] == ["GATEWAY_PREFIX"]  # or it would look for another's


def test_check_finds_nothing_wrong_with_a_good_redis() -> None:
    with embedded_server("--appendonly", "yes") as url:
        result = run("check", redis_url=url, auth="none")

    assert (result.returncode, result.stdout, result.stderr) == (0, "all is well\n", "")


def test_check_only_warns_of_a_redis_that_keeps_nothing_on_disk() -> None:
    with embedded_server("--appendonly", "no") as url:
        result = run("check", redis_url=url, auth="none")

    assert (result.returncode, result.stdout) == (0, "all is well\n")
    assert result.stderr.startswith("warning: Redis appendonly no: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "GATEWAY_AUTH: jwt, and no key for it"),
        ({"auth": "jwt"}, "GATEWAY_AUTH: jwt, and no key for it"),
        ({"jwt_secret": "short-and-secret"}, "GATEWAY_JWT_SECRET: the value is wrong: at least 32 bytes"),
        ({"jwt_public_key": "-----BEGIN PRIVATE KEY-----\nshort-and-secret"}, "GATEWAY_JWT_PUBLIC_KEY: the value is wrong: a public key"),
        ({"jwt_secret": SECRET, "jwks_url": "https://id.example/keys"}, "GATEWAY_JWT_SECRET, GATEWAY_JWKS_URL: 2 keys"),
        ({"jwks_url": "https://user:short-and-secret@id.example/"}, "GATEWAY_JWKS_URL"),
        ({"authorize_url": "ftp://app.example/"}, "GATEWAY_AUTHORIZE_URL"),
        ({"auth": "none", "host": "0.0.0.0"}, "loopback"),
    ],
)
def test_serve_does_not_start_without_a_way_to_know_its_callers(settings: dict[str, str], said: str) -> None:
    result = invoke("serve", redis_url="redis://127.0.0.1:1", **settings)

    assert result.exit_code == 1
    assert said in result.output
    assert SECRET not in result.output
