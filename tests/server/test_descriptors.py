from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.server.descriptors import raise_limit

# The limits only go down, because only root may raise them again.
LIMITS = [(256, 1024), (512, 512), (64, 100)]

SCRIPT = """
import resource
from gateway.server.descriptors import max_sockets, raise_limit
for limits in LIMITS:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    max_sockets.cache_clear()
    print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE), max_sockets())
"""

CLOSED = """
import os, subprocess, sys
from gateway.server.descriptors import fill_standard
for number in CLOSED:
    os.close(number)
fill_standard()
null = os.stat(os.devnull).st_rdev
code = "import os; print([number for number in range(3) if os.fstat(number).st_rdev == NULL], file=open(FILE, 'w'))"
subprocess.run([sys.executable, "-c", code.replace("NULL", str(null)).replace("FILE", repr(sys.argv[1]))], check=True)
"""


@pytest.mark.parametrize("closed", [[0, 1, 2], [0, 2], [1], []])
def test_closed_standard_streams_lead_nowhere_here_and_in_the_workers(closed: list[int], tmp_path: Path) -> None:
    found = tmp_path / "found"
    program = [sys.executable, "-c", f"CLOSED = {closed}\n{CLOSED}", str(found)]
    subprocess.run(program, input=b"", capture_output=True, check=True)

    assert json.loads(found.read_text()) == closed


def test_the_limit_is_raised_and_some_descriptors_are_kept_back() -> None:
    done = subprocess.run([sys.executable, "-c", f"LIMITS = {LIMITS}\n{SCRIPT}"], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["1024 1024 1024 960", "512 512 512 448", "100 100 100 50"]


@pytest.mark.parametrize(("soft", "raised"), [(256, 10_240), (20_000, 20_000)])
def test_a_system_that_refuses_the_limit_is_asked_for_less_but_never_lowered(
    soft: int, raised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if limits[0] > 61_440:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)

    assert raise_limit() == raised
    assert asked[-1] == (raised, resource.RLIM_INFINITY)
