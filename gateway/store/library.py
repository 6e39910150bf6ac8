"""Library: the Lua of publish.lua and read.lua on a server, as functions, or as scripts where it has none.

Gateways of two versions run side by side while a deploy lasts, and each must find functions that answer as it expects. So there
are two libraries. ``notify`` holds ``notify_publish``, for everybody: that of the newest release that has been here, which an
older one leaves alone. ``notify_<digest>`` holds what only gateways of the same Lua call. What publish.lua stores is read by
both: a release may change the form of it only if the one before reads that form already.
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
_FUNCTIONS: Final = {"publish": "keys[1], args", "reads": "keys, args", "greet": "args[1], args[2]", "meet": "args[1], args[2]"}
_SCRIPTS: Final = {name: words.replace("keys", "KEYS").replace("args", "ARGV") for name, words in _FUNCTIONS.items()}
_READING: Final = ("reads", "meet")  # they write nothing, and are answered where nothing can be written
_RELEASE: Final = re.compile(r"^-- of notify-gateway ([0-9]+(?:\.[0-9]+)*)", re.MULTILINE)


def this_release() -> str:
    """The version of the package, ``0`` where it runs without being installed."""
    try:
        return version("notify-gateway")
    except PackageNotFoundError:
        return "0"


def _number(code: str) -> tuple[int, ...]:
    found = _RELEASE.search(code)
    return tuple(map(int, found[1].split("."))) if found else ()


class Library:
    """Our functions, on any server.

    Args:
        prefix: as GATEWAY_PREFIX
        max_event_bytes: as GATEWAY_MAX_EVENT_BYTES
        release: version of the gateway that brings them
        folder: where publish.lua and read.lua lie

    Attributes:
        codes: what ``FUNCTION LOAD`` takes, by the name of the library
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
        self._hashes: dict[str, str] | None = None  # of the scripts, where the server has no functions
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
        """The words that call ``publish``, ``reads``, ``greet`` or ``meet`` with so many keys, the keys, and arguments."""
        if self._hashes is not None:
            return ("EVALSHA", self._hashes[name], *arguments)
        return ("FCALL_RO" if name in _READING else "FCALL", self._names[name], *arguments)

    async def load(self, client: Redis) -> None:
        """Make sure that the server has what we call.

        Raises:
            RedisError: if it cannot be reached or refuses.
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
            there = known.get(name, "")
            if there != code and _number(there) <= _number(code):
                await client.execute_command("FUNCTION", "LOAD", "REPLACE", code)
        if not self._swept:
            await self._sweep(client, known)
            self._swept = True

    async def _sweep(self, client: Redis, known: dict[str, str]) -> None:
        # What older releases left. Once, at the start: one that still runs misses its library, and loads it again.
        ours = re.compile(re.escape(self._prefix) + "_[0-9a-f]{8}")
        for name, code in known.items():
            if name not in self.codes and ours.fullmatch(name) and () < _number(code) < _number(self.codes[self._own]):
                with suppress(ResponseError):  # another gateway that starts was quicker
                    await client.execute_command("FUNCTION", "DELETE", name)
