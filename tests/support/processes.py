"""The processes of this machine. On Linux from /proc, because small systems have no ps."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process: its number, that of its parent, and its command line with spaces between the words."""

    pid: int
    parent: int
    command: str


def processes() -> list[Process]:
    """Those that run now."""
    return list(_from_proc() if sys.platform == "linux" else _from_ps())


def _from_proc() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended in the meantime
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]  # the name in brackets may hold anything
            command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
            yield Process(int(folder.name), int(parent), command)


def _from_ps() -> Iterator[Process]:
    command = ["ps", "-ww", "-A", "-o", "pid=", "-o", "ppid=", "-o", "args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, parent, *words = line.split()
        yield Process(int(pid), int(parent), " ".join(words))
