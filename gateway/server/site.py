"""Site: what all connections of one server share: the application, the deadlines, and the server's part of a request's scope.

It is found out only once. uvicorn looks loggers, addresses and settings up again for each connection, which takes a tenth of a handshake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.utils import get_local_addr

from gateway.server.connection import Connection
from gateway.server.deadlines import Deadlines
from gateway.server.responses import Field
from gateway.server.transport_writer import LINGER_SECONDS

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState


HEAD_SECONDS: Final = 10.0  # for a whole head, from its first byte or from the connection; a phone with bad reception takes 3
BODY_SECONDS: Final = 30.0  # for 8 MiB of events from a backend

Address = tuple[str, int] | None


class Site:
    """A server as its connections see it.

    Attributes:
        app: the ASGI application
        max_message_size: bytes of a WebSocket message
        state: of uvicorn's server
        loop: the event loop
        head, body: the deadlines for a request's head and body
        idle: the deadline for the next request after an answer
        lingering: until when a connection stays open after its last answer, so that the client receives that
        address: where the server listens; ``None`` until the first connection
        ending: whether the server stops, so that every answer is the last on its connection
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.app: Callable[..., Any] = config.loaded_app
        self.max_message_size = config.ws_max_size
        self.state = state
        self.loop = loop
        self.head = Deadlines(loop, HEAD_SECONDS, _late)
        self.body = Deadlines(loop, BODY_SECONDS, _late)
        self.idle = Deadlines(loop, config.timeout_keep_alive, _late)
        self.lingering = Deadlines(loop, LINGER_SECONDS, _late)
        self._app_state = app_state
        self._version = config.asgi_version
        self._root_path = config.root_path
        self._raw_root_path = config.root_path.encode("ascii")
        self.address: tuple[str, int | None] | None = None
        self.ending = False

    def learn_address(self, transport: asyncio.Transport) -> None:
        """Take from the first connection what only a connection tells."""
        self.address = get_local_addr(transport)

    def http_scope(self, method: bytes, version: str, uri: bytes, headers: list[Field], client: Address) -> dict[str, Any]:
        """The ASGI scope of a request whose head has been checked."""
        scope = self._scope(uri, headers, client)
        scope["type"] = "http"
        scope["asgi"] = {"version": self._version, "spec_version": "2.3"}
        scope["http_version"] = version
        scope["method"] = method.decode("ascii")
        scope["scheme"] = "http"
        scope["extensions"] = {}
        return scope

    def websocket_scope(self, uri: bytes, headers: list[Field], client: Address) -> dict[str, Any]:
        """The ASGI scope of an upgrade; as ``http_scope``."""
        scope = self._scope(uri, headers, client)
        scope["type"] = "websocket"
        scope["asgi"] = {"version": self._version, "spec_version": "2.4"}
        scope["http_version"] = "1.1"
        scope["scheme"] = "ws"
        scope["subprotocols"] = [
            text.strip()
            for name, value in headers
            if name == b"sec-websocket-protocol"
            for text in value.decode("latin-1").split(",")
        ]  # fmt: skip
        scope["extensions"] = {"websocket.http.response": {}}
        return scope

    def _scope(self, uri: bytes, headers: list[Field], client: Address) -> dict[str, Any]:
        if uri.startswith(b"/"):
            path, _, query = uri.partition(b"?")
        else:
            url = httptools.parse_url(uri)
            path, query = url.path or b"/", url.query or b""  # RFC 9112, section 3.2.2: an absolute address may end with the host
        text = path.decode("ascii")
        return {
            "path": self._root_path + (unquote(text) if "%" in text else text),
            "raw_path": self._raw_root_path + path,
            "query_string": query,
            "root_path": self._root_path,
            "headers": headers,
            "client": client,
            "server": self.address,
            "state": self._app_state.copy(),
        }


def _late(who: Connection, deadline: Deadlines[Connection]) -> None:
    who.on_late(deadline)
