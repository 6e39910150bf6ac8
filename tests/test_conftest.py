"""What the fixtures and hooks of all tests promise to somebody who runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent

SKIPPED = """
import pytest
from tests.conftest import need

@pytest.mark.parametrize("number", range(3))
def test_with_a_tool(number):
    need(None, "a tool: apt-get install tool")

@pytest.mark.skipif(True, reason="needs another system")
def test_elsewhere():
    pass
"""


def test_each_reason_to_skip_is_shown_once_with_the_line_that_installs_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    command = ["-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    environ = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    for workers in ("0", "2"):
        result = subprocess.run(
            [sys.executable, *command, f"-n{workers}"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100, check=False
        )

        assert result.stdout.count("3 skipped: needs a tool: apt-get install tool\n") == 1, result.stdout + result.stderr
        assert result.stdout.count("1 skipped: needs another system\n") == 1


def test_a_checkout_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "test_passed.py").write_text("def test_passed():\n    pass\n")
    command = ["-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-n0", "-o", "cache_dir=/dev/null/cache", str(tmp_path)]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_a_free_threaded_python_may_take_its_lock_for_a_library() -> None:
    # In these words, with which the import of redis would otherwise fail.
    warnings.warn("The global interpreter lock (GIL) has been enabled to load module 'hiredis.hiredis'", RuntimeWarning, stacklevel=1)


def test_settings_of_a_gateway_and_a_proxy_of_whoever_runs_the_tests_do_no_harm() -> None:
    code = """
import os, tests.conftest, urllib.request
print([name for name in os.environ if name.startswith("GATEWAY_")])
print([urllib.request.proxy_bypass(host) for host in ("127.0.0.1", "localhost", "gateway.invalid", "kept.example", "registry.npmjs.org")])
"""
    environ = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environ |= {"GATEWAY_PORT": "none", "HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "kept.example"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100, check=False)

    assert result.stdout.splitlines() == ["[]", "[True, True, True, True, False]"], result.stderr


def test_a_program_that_a_test_starts_is_ended_by_a_signal_that_the_tests_caller_ignores() -> None:
    ask = "import os, signal; os.kill(os.getpid(), signal.{name}); print('goes on')"
    code = f"""
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import tests.conftest
for ask in ({ask.format(name="SIGINT")!r}, {ask.format(name="SIGHUP")!r}):
    print(subprocess.run([sys.executable, "-c", ask], stderr=subprocess.DEVNULL).returncode)
{ask.format(name="SIGHUP")}
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert result.stdout.splitlines() == [str(-signal.SIGINT), str(-signal.SIGHUP), "goes on"], result.stderr


def test_a_request_that_says_nothing_else_waits_half_a_minute_for_its_answer() -> None:
    with httpx.Client() as client:
        assert client.timeout == httpx.Timeout(30)


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows() -> None:
    code = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
import tests.conftest
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (min(8_192, hard) if hard != resource.RLIM_INFINITY else 8_192, hard))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert result.stdout == "True\n", result.stderr
