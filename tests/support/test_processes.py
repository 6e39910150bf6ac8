import os
import subprocess
import sys

from tests.support.processes import Process, processes


def test_processes_are_found_on_a_linux_that_has_no_ps(monkeypatch):
    if sys.platform == "linux":
        monkeypatch.setenv("PATH", "/nonexistent")
    command = [sys.executable, "-c", "input()", "x" * 500]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        found = processes()
        child.communicate(b"\n")

    assert Process(child.pid, os.getpid(), " ".join(command)) in found
    assert child.pid not in {process.pid for process in processes()}
