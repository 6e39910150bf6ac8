"""Raw HTTP and WebSocket bytes, to send a gateway what no proper client library would send."""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from gateway.server.site import HEAD_SECONDS

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Answer(NamedTuple):
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json", self
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        return problem


def request(target: str = "/livez", *lines: str, method: str = "GET", version: str = "HTTP/1.1", host: str | None = "a") -> bytes:
    """The head of a request."""
    head = [f"{method} {target} {version}", *([] if host is None else [f"Host: {host}"]), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def upgrade(target: str = "/ws", *lines: str, drop: str = "", **others: Any) -> bytes:
    """The head of a WebSocket upgrade, without the header named in ``drop``."""
    usual = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY.decode()}", "Sec-WebSocket-Version: 13"]
    return request(target, *(line for line in usual if not drop or not line.startswith(drop)), *lines, **others)


def frame(
    payload: bytes = b"", opcode: int = TEXT, *, fin: bool = True, reserved: int = 0, masked: bool = True, form: int | None = None
) -> bytes:
    """A WebSocket frame as a client sends it.

    Args:
        form: bytes of the extended length: 0, 2 or 8; the shortest possible unless given
    """
    size = len(payload)
    form = form if form is not None else 0 if size < 126 else 2 if size < 65_536 else 8
    length = {0: bytes([size & 0x7F]), 2: b"\x7e" + struct.pack("!H", size & 0xFFFF), 8: b"\x7f" + struct.pack("!Q", size)}[form]
    length = bytes([length[0] | (0x80 if masked else 0)]) + length[1:]
    data = bytes(byte ^ MASK[i & 3] for i, byte in enumerate(payload)) if masked else payload
    return bytes([(0x80 if fin else 0) | reserved << 4 | opcode]) + length + (MASK if masked else b"") + data


class Wire:
    """One TCP connection; each read fails after a deadline, which comes before the gateway's own for a head.

    Args:
        port: of 127.0.0.1
        seconds: the deadline
        receive_buffer: its size in bytes; the system's if 0
        address: of this machine, from which to connect; the system chooses if empty
    """

    def __init__(self, port: int, seconds: float = HEAD_SECONDS - 1, *, receive_buffer: int = 0, address: str = "") -> None:
        self._socket = socket.socket()
        if address:
            self._socket.bind((address, 0))
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(seconds)
        self._socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> Self:
        """Send bytes; it is no error if the gateway has closed the connection already."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)
        return self

    def end(self) -> Self:
        """Close the sending half of the connection."""
        self._socket.shutdown(socket.SHUT_WR)
        return self

    def _more(self, at_once: int = 65_536) -> bytes:
        try:
            data = self._socket.recv(at_once)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        return data

    def take(self, size: int, *, at_once: int = 65_536) -> bytes:
        """Read so many bytes, or fewer if the connection ends before that; ``at_once`` bounds what one read takes from the kernel."""
        while len(self._buffer) < size and self._more(at_once):
            pass
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def rest(self) -> bytes:
        """Read until the gateway closes the connection."""
        parts = []
        while self._more():
            parts.append(self._buffer)
            self._buffer = b""
        data, self._buffer = b"".join([*parts, self._buffer]), b""
        return data

    def answer(self) -> Answer:
        """Read the next response, which must have a Content-Length unless its body is empty."""
        while b"\r\n\r\n" not in self._buffer:
            assert self._more(), f"closed without an answer: {self._buffer[:200]!r}"
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
        return Answer(int(line.split(" ")[1]), headers, self.take(int(headers.get("content-length", "0"))))

    def frame(self) -> tuple[int, bytes] | None:
        """Read the next frame: its opcode and payload; ``None`` at the end of the connection."""
        head = self.take(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(self.take(2 if size == 126 else 8), "big")
        return head[0] & 0x0F, self.take(size)

    def message(self) -> dict[str, Any]:
        """Read up to the next text frame: its decoded JSON."""
        while (found := self.frame()) is not None:
            if found[0] == TEXT:
                message: dict[str, Any] = json.loads(found[1])
                return message
        raise AssertionError("closed before a message")

    def close_code(self) -> int:
        """Read to the end of the connection: the code of the close frame, 1006 if there is none."""
        code = 1006
        while (found := self.frame()) is not None:
            if found[0] == CLOSE:
                code = int.from_bytes(found[1][:2], "big")
                self.send(frame(found[1][:2], CLOSE))
        return code


def websocket(port: int, target: str = "/ws", *lines: str, **others: Any) -> Wire:
    """Open a WebSocket."""
    wire = Wire(port, **others).send(upgrade(target, *lines))
    answer = wire.answer()
    assert answer.status == 101, answer
    return wire


def resident_bytes(pid: int) -> int:
    """The resident memory of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
