"""A WebSocket client on websocket-client, which locust installs and gevent makes cooperative."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import ClassVar, Final

import websocket

from loadtest.clients.stream import OPEN_SECONDS, SILENT_SECONDS, Ended, Message, Target, query

DONE: Final = 1000


class WebSocketStream:
    """Follows a channel over ``/ws``."""

    name: ClassVar = "WS"
    batches: ClassVar = False

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: websocket.WebSocket | None = None

    def open(self, channel: str, since: str, *, until_final: bool) -> None:
        address = f"{self._target.host.replace('http', 'ws', 1)}/ws?{query(channel, since, until_final=until_final)}"
        try:
            self._socket = websocket.create_connection(
                address, timeout=OPEN_SECONDS, header=self._target.headers, suppress_origin=True, skip_utf8_validation=True
            )
        except websocket.WebSocketBadStatusException as error:
            raise Ended(error.status_code, "the upgrade was refused") from None
        except (OSError, websocket.WebSocketException) as error:
            raise Ended(0, str(error) or type(error).__name__) from None
        self._socket.settimeout(SILENT_SECONDS)

    def __iter__(self) -> Iterator[Message]:
        assert self._socket is not None
        try:
            while True:
                opcode, data = self._socket.recv_data(control_frame=True)  # answers pings by itself
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    yield json.loads(data)
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else 0
                    if code == DONE:
                        return
                    raise Ended(code, data[2:].decode(errors="replace"))
        except (OSError, websocket.WebSocketException) as error:
            raise Ended(0, str(error) or type(error).__name__) from None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.shutdown()
