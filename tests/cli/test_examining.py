"""``gateway doctor``, as an operator uses it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

from gateway.embedded import embedded_server
from tests.support.command import run
from tests.support.listening import refusing_port
from tests.support.servers import running_gateway


def test_the_doctor_says_what_is_wrong_and_what_to_change() -> None:
    with refusing_port() as port:
        result = run("doctor", f"http://127.0.0.1:{port}", "--patience", "1")

    assert result.returncode == 1
    assert result.stdout.startswith(f"WRONG  http://127.0.0.1:{port} cannot be reached")
    assert "         nginx    " in result.stdout
    assert result.stdout.endswith("One thing is wrong.\n")


def test_a_scheme_in_capitals_means_the_same() -> None:
    with refusing_port() as port:
        result = run("doctor", f"HTTPS://127.0.0.1:{port}")

    assert result.stdout.startswith(f"WRONG  https://127.0.0.1:{port} cannot be reached")


def test_the_doctor_finds_nothing_wrong_with_a_good_gateway() -> None:
    with embedded_server() as url, running_gateway(url) as server:
        result = run("doctor", server.http, "--patience", "1")

    assert (result.returncode, result.stderr) == (0, "")
    assert "WRONG" not in result.stdout
    assert result.stdout.endswith("All is well.\n")


def test_the_doctor_ends_at_ctrl_c() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        command = [sys.executable, "-m", "gateway", "doctor", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        doctor = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with doctor, silent.accept()[0]:
            doctor.send_signal(signal.SIGINT)
            output, problems = doctor.communicate(timeout=30)

    assert (doctor.returncode, problems) == (130, "")
    assert "well" not in output
