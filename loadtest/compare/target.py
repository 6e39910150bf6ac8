"""Targets: the servers that are compared, and how each is started, followed and published to.

All do the same work: there are rooms with clients, and each event goes to all clients of one room. What the gateway calls a channel,
others call a topic or a room. A server that is not installed is left out of the report, which gives the line that installs it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import jwt

PEERS: Final = Path(__file__).parent / "peers"
NCHAN_MODULES: Final = (Path("/usr/lib/nginx/modules/ngx_nchan_module.so"), Path("/usr/lib64/nginx/modules/ngx_nchan_module.so"))
MERCURE_SECRET: Final = "the-hub-of-a-benchmark-on-loopback"
ROOM: Final = "{room}"  # stands for the room's name in a path
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3

Publish = Callable[[str, str], None]
"""Publishes to a room (first argument) an event (second argument), which is the text of a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server runs: its port, a folder of its own, and a Redis if it needs one."""

    port: int
    folder: Path
    redis_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One server and one transport.

    Attributes:
        command: the command line that starts it
        path: the path that its clients request
        sse: whether that is an event stream rather than a WebSocket
        ready: text that the server sends when a client is subscribed; empty if its response head already says so
        say: text that a client has to send first, in a WebSocket frame
        publish_path: where events are posted; ``None`` for the gateway, which takes them from Redis
        headers: those of the post
        body: makes the body of the post from the room and the event
        version: finds the installed version; ``None`` if it is not installed
        install: the line that installs it
    """

    name: str
    command: Callable[[Place], Sequence[str]]
    path: str
    sse: bool = False
    ready: str = ""
    say: str | None = None
    publish_path: str | None = "/publish?room={room}"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[str, str], str] = lambda _room, event: event
    version: Callable[[], str | None]
    install: str = ""

    def request(self, port: int, room: str = "room") -> str:
        """The head of the request that a client sends."""
        lines = [f"GET {self.path.replace(ROOM, room)} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        if self.sse:
            lines += ["Accept: text/event-stream"]
        else:
            lines += ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
        return "\r\n".join([*lines, "", ""])


def _output(*command: str) -> str | None:
    """What a command prints; ``None`` if it is not installed or fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd=PEERS)
    except (OSError, subprocess.SubprocessError):
        return None
    return (answer.stdout + answer.stderr).strip()


def _gateway_version() -> str:
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = _output("git", "status", "--porcelain", "--", "../../../gateway")
    return f"{commit or '?'}{' with changes' if changed else ''}, Python {sys.version.split()[0]}"


def _nchan_module() -> Path | None:
    return next((path for path in NCHAN_MODULES if path.exists()), None) if shutil.which("nginx") else None


def _nchan_version() -> str | None:
    if _nchan_module() is None:
        return None
    nchan = (_output("dpkg-query", "-W", "-f=${Version}", "libnginx-mod-nchan") or "?").partition(":")[2].partition("+")[0]
    return f"{nchan or '?'}, nginx {(_output('nginx', '-v') or '?').rpartition('/')[2]}"


def _node_version(package: str) -> Callable[[], str | None]:
    def version() -> str | None:
        found = _output("node", "-p", f"require('{package}/package.json').version")
        return found and f"{found}, Node {(_output('node', '--version') or '?').lstrip('v')}"

    return version


def _program_version(program: str) -> Callable[[], str | None]:
    def version() -> str | None:
        found = re.search(r"\d+\.\d+\.[\w.-]+", _output(program, "version") or "")
        return found and found[0]

    return version


def _filled(name: str, place: Place, **values: object) -> str:
    """Write a peer's configuration file with its port, its folder and these values; the path of the file."""
    path = place.folder / name
    path.write_text((PEERS / name).read_text().format(port=place.port, folder=place.folder, **values))
    return str(path)


def _gateway(place: Place) -> list[str]:
    settings = {"REDIS_URL": place.redis_url, "AUTH": "none", "LOG_LEVEL": "warning", "DRAIN_SECONDS": "0", "MAX_CONNECTIONS": "60000"}
    environ = [f"GATEWAY_{name}={value}" for name, value in settings.items()]
    return ["env", *environ, sys.executable, "-m", "gateway", "serve", "--port", str(place.port)]


def _nchan(place: Place) -> list[str]:
    return ["nginx", "-p", str(place.folder), "-c", _filled("nchan.conf", place, module=_nchan_module())]


def _node(name: str) -> Callable[[Place], list[str]]:
    return lambda place: ["node", str(PEERS / name), str(place.port)]


FLOOR: Final = Target(
    name="C, bare send()",
    command=lambda place: [str(place.folder / "floor"), str(place.port)],
    path="/{room}",
    ready="{}",
    publish_path="/{room}",
    version=lambda: "floor.c",
)

GATEWAY: Final = tuple(
    Target(
        name=f"Notify Gateway, {name}",
        command=_gateway,
        path=f"{path}?channel={{room}}&since=now",
        sse=path == "/sse",
        ready="ready",
        publish_path=None,
        version=_gateway_version,
    )
    for name, path in (("WebSocket", "/ws"), ("SSE", "/sse"))
)

OTHERS: Final = (
    *(
        Target(
            name=f"Nchan, {name}",
            command=_nchan,
            path="/subscribe?room={room}",
            sse=name == "SSE",
            version=_nchan_version,
            install="apt-get install nginx-light libnginx-mod-nchan",
        )
        for name in ("WebSocket", "SSE")
    ),
    Target(
        name="ws",
        command=_node("ws.js"),
        path="/{room}",
        ready="ready",
        version=_node_version("ws"),
        install="npm install --no-save --prefix loadtest/compare ws",
    ),
    Target(
        name="Socket.IO",
        command=_node("socketio.js"),
        path="/socket.io/?EIO=4&transport=websocket&room={room}",
        ready="40{",
        say="40",
        version=_node_version("socket.io"),
        install="npm install --no-save --prefix loadtest/compare socket.io",
    ),
    Target(
        name="Centrifugo, WebSocket",
        command=lambda place: ["centrifugo", "--config", _filled("centrifugo.json", place)],
        path="/connection/uni_websocket?cf_connect=%7B%22subs%22%3A%7B%22{room}%22%3A%7B%7D%7D%7D",
        ready="connect",
        publish_path="/api/publish",
        headers={"Content-Type": "application/json"},
        body=lambda room, event: json.dumps({"channel": room, "data": json.loads(event)}),
        version=_program_version("centrifugo"),
        install="https://github.com/centrifugal/centrifugo/releases, version 6.5.1 or later",
    ),
    Target(
        name="Mercure, SSE",
        command=lambda place: ["mercure", "run", "--config", _filled("mercure.Caddyfile", place, secret=MERCURE_SECRET)],
        path="/.well-known/mercure?topic={room}",
        sse=True,
        publish_path="/.well-known/mercure",
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": "Bearer " + jwt.encode({"mercure": {"publish": ["*"]}}, MERCURE_SECRET, algorithm="HS256"),
        },
        body=lambda room, event: urlencode({"topic": room, "data": event}),
        version=_program_version("mercure"),
        install="https://github.com/dunglas/mercure/releases",
    ),
)


def environment() -> dict[str, str]:
    """The environment of the servers, without the settings of a gateway that the caller may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
