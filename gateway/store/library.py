"""Library: loads publish.lua and read.lua into a server, as Redis functions, or as scripts on a server without functions.

During a deploy gateways of two versions run side by side, and each must find functions that answer as it expects. So there are two
libraries. ``notify`` holds ``notify_publish``, which everybody calls; the newest release that has ever connected installs it, and
older ones leave it alone. ``notify_<digest>`` holds the functions that only gateways with exactly this Lua code call. Both versions
read what publish.lua stores, so a release may change that format only if the release before it can already read the new one.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

OLDEST_WITH_FUNCTIONS: Final = 7

_HERE: Final = Path(__file__).parent
# Our functions, and their arguments in terms of the keys and args that the server passes to a callback.
_FUNCTIONS: Final = {
    "publish": "keys[1], args, keys[2]",
    "reads": "keys, args",
    "sync_clock": "args[1], args[2]",
    "check_clock": "args[1], args[2]",
}
_SCRIPTS: Final = {name: words.replace("keys", "KEYS").replace("args", "ARGV") for name, words in _FUNCTIONS.items()}
_READING: Final = ("reads", "check_clock")  # these write nothing, so a server that takes no writes still runs them
_RELEASE: Final = re.compile(r"^-- of notify-gateway ([0-9]+(?:\.[0-9]+)*)", re.MULTILINE)


def this_release() -> str:
    """The version of the package; ``0`` if it runs without being installed."""
    try:
        return version("notify-gateway")
    except PackageNotFoundError:
        return "0"


def _release_of(code: str) -> tuple[int, ...]:
    """The release that a library's code names; empty if it names none."""
    found = _RELEASE.search(code)
    return tuple(map(int, found[1].split("."))) if found else ()


class Library:
    """Our functions, on any server.

    Args:
        prefix: as GATEWAY_PREFIX
        max_event_bytes: as GATEWAY_MAX_EVENT_BYTES
        release: the version that the code is marked with; that of the installed package if empty
        folder: where publish.lua and read.lua are

    Attributes:
        codes: the code of each library for ``FUNCTION LOAD``, by the library's name
    """

    def __init__(self, prefix: str, max_event_bytes: int, release: str = "", folder: Path = _HERE) -> None:
        self._prefix = prefix
        publish, read = ((folder / name).read_text() for name in ("publish.lua", "read.lua"))
        self._source = (publish + read).replace("@PREFIX@", prefix).replace("@MAX_EVENT_BYTES@", str(max_event_bytes))
        self._own = f"{prefix}_{hashlib.sha256(self._source.encode()).hexdigest()[:8]}"
        own = [name for name in _FUNCTIONS if name != "publish"]
        self._names = {"publish": f"{prefix}_publish"} | {name: f"{self._own}_{name}" for name in own}
        release = release or this_release()
        self.codes = {prefix: self._code(prefix, release, "publish"), self._own: self._code(self._own, release, *own)}
        self._hashes: dict[str, str] | None = None  # of the scripts, if the server has no functions
        self._swept = False

    def _code(self, library: str, release: str, *functions: str) -> str:
        lines = [f"#!lua name={library}", f"-- of notify-gateway {release}", self._source]
        for name in functions:
            flags = ", flags = { 'no-writes' }" if name in _READING else ""
            lines.append(
                f"redis.register_function{{ function_name = '{self._names[name]}'{flags}, "
                f"callback = function(keys, args) return answer({name}, {_FUNCTIONS[name]}) end }}"
            )
        return "\n".join(lines) + "\n"

    def command(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """The Redis command that calls one of our functions.

        Args:
            name: ``publish``, ``reads``, ``sync_clock`` or ``check_clock``
            arguments: the number of keys, the keys, and the function's arguments
        """
        if self._hashes is not None:
            return ("EVALSHA", self._hashes[name], *arguments)
        return ("FCALL_RO" if name in _READING else "FCALL", self._names[name], *arguments)

    def looks(self) -> list[tuple[str, ...]]:
        """The Redis commands that answer with an empty list if what publishers call is gone; none on a server without functions."""
        return [("FUNCTION", "LIST", "LIBRARYNAME", self._prefix)] if self._hashes is None else []

    async def load(self, client: Redis) -> None:
        """Make sure that the server has our functions or scripts.

        Raises:
            RedisError, OSError: if the server cannot be reached, refuses, or is a node of a Redis Cluster.
        """
        server = await client.info("server")
        if "cluster" in (server.get("server_mode"), server.get("redis_mode")):
            raise ResponseError("this is a node of a Redis Cluster; the address of a single server, or of its Sentinels, is expected")
        if int(str(server.get("redis_version", "0")).partition(".")[0]) >= OLDEST_WITH_FUNCTIONS:
            self._hashes = None
            await self._load_functions(client)
        else:
            self._hashes = {
                name: await client.script_load(f"{self._source}\nreturn answer({name}, {arguments})\n")
                for name, arguments in _SCRIPTS.items()
            }

    async def _load_functions(self, client: Redis) -> None:
        listed = await client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", f"{self._prefix}*", "WITHCODE")
        replies = [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in listed]
        known = {reply[b"library_name"].decode(): reply[b"library_code"].decode() for reply in replies}
        for name, code in self.codes.items():
            installed = known.get(name, "")
            if installed != code and _release_of(installed) <= _release_of(code):
                await client.execute_command("FUNCTION", "LOAD", "REPLACE", code)
        if not self._swept:
            await self._sweep(client, known)
            self._swept = True

    async def _sweep(self, client: Redis, known: dict[str, str]) -> None:
        """Delete the libraries of older releases.

        Done only once: a gateway of an older release that still runs will miss its library, and load it again.
        """
        ours = re.compile(re.escape(self._prefix) + "_[0-9a-f]{8}")
        for name, code in known.items():
            if name not in self.codes and ours.fullmatch(name) and () < _release_of(code) < _release_of(self.codes[self._own]):
                with suppress(ResponseError):  # another gateway that starts just now was quicker
                    await client.execute_command("FUNCTION", "DELETE", name)
