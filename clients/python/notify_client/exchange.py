"""Exchange: what one publish says to Redis, without I/O.

An exchange is a generator. It yields a Redis command, and is then sent the reply or thrown the error; it yields ``DISCONNECT`` to have
idle connections closed; and it returns the result. Publisher and AsyncPublisher share all of it, and differ only in how they send
commands.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator
from importlib import resources
from typing import Any, Final, TypeVar

from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from notify_client.command import Command, check_channel, check_prefix, encode_event, encode_options
from notify_client.outage import Breaker, DropCallback, DropCounter

Result = TypeVar("Result")
Exchange = Generator[Command, Any, Result]

DISCONNECT: Final[Command] = ()
RETRY_BEFORE: Final = 0.4  # the part of a call's time in which it may be tried again: connecting and the answer may take a third each
SCRIPT_SECONDS: Final = 60.0  # for which the script is used before the function is tried again, which a gateway may have loaded by then


def _read_script(prefix: str, max_event_bytes: int) -> str:
    text = resources.files("notify_client").joinpath("publish.lua").read_text(encoding="utf-8")
    for name, value in (("@PREFIX@", prefix), ("@MAX_EVENT_BYTES@", str(max_event_bytes))):
        text = text.replace(name, value)
    return f"{text}\nreturn answer(publish, KEYS[1], ARGV)\n"


def _has_no_function(error: ResponseError) -> bool:
    text = str(error).removeprefix("ERR ").lower()
    return text.startswith(("unknown command", "function not found"))


class PublisherCore:
    """The state and the decisions of a publisher: whether Redis answers, whether it has functions, and how many events were dropped.

    Args:
        prefix: as GATEWAY_PREFIX
        max_event_bytes: as GATEWAY_MAX_EVENT_BYTES
        timeout: seconds that one call may take
        on_drop: called for each event that is dropped

    Attributes:
        timeout: as given
        drops: counts the events that are dropped
    """

    def __init__(self, prefix: str, max_event_bytes: int, timeout: float, on_drop: DropCallback | None) -> None:
        check_prefix(prefix)
        if not 0 < timeout <= 60:
            raise ValueError(f"timeout {timeout}: seconds above 0 and up to 60 are expected")
        if not 1 <= max_event_bytes <= 512 * 2**20:
            raise ValueError(f"max_event_bytes {max_event_bytes}: 1 to 512 MiB are expected")
        self.timeout = timeout
        self._prefix = prefix
        self._limit = max_event_bytes
        self._on_drop = on_drop
        self._script = _read_script(prefix, max_event_bytes)
        self._digest = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._start()

    def _start(self) -> None:
        self._breaker = Breaker()
        self._script_until = 0.0
        self.drops = DropCounter(self._on_drop)
        self._process = os.getpid()  # last: by it other threads tell that the rest is this process's

    def publish(
        self, channel: str, type: str, data: Any, *, final: bool, key: str | None, keep: int | None, ttl: int | None, collapse: str | None
    ) -> Exchange[str | None]:
        """Record an event and announce it. Returns the id, or ``None`` if it was dropped."""
        check_channel(channel)
        arguments = (
            channel,
            encode_event(type, data, final=final, limit=self._limit),
            *encode_options(key=key, keep=keep, ttl=ttl, collapse=collapse),
        )
        id = yield from self._try(channel, type, lambda: self._record(arguments), retry=key is not None)
        return id.decode() if isinstance(id, bytes) else id

    def live(self, channel: str, type: str, data: Any) -> Exchange[int | None]:
        """Announce an event without recording it. Returns how many gateways heard it, or ``None`` if it was dropped."""
        check_channel(channel)
        command = ("PUBLISH", f"{self._prefix}:{channel}", encode_event(type, data, final=False, limit=self._limit))
        heard: int | None = yield from self._try(channel, type, lambda: self._send(command), retry=False)
        return heard

    def _try(self, channel: str, type: str, attempt: Callable[[], Exchange[Any]], *, retry: bool) -> Exchange[Any]:
        """Make an attempt, if Redis is to be tried now, and a second one if ``retry`` is set and a passing failure came early.

        Returns:
            the reply; ``None`` if the event was dropped
        """
        if self._process != os.getpid():
            self._start()  # in a forked child: another thread of the parent may have held a lock, or been the one that probes
        breaker, began = self._breaker, time.monotonic()
        ticket = breaker.enter(urgent=retry)
        if ticket is None:
            self.drops.drop(channel, type, breaker.reason or RedisConnectionError("Redis is being tried by another call"))
            return None
        try:
            while True:
                try:
                    reply = yield from attempt()
                except ResponseError as error:
                    breaker.succeed()
                    yield from self._refused(channel, type, error)
                    return None
                except (RedisError, OSError) as error:
                    if retry and self._is_transient(error) and time.monotonic() - began < self.timeout * RETRY_BEFORE:
                        retry = False  # once; with a key the event is recorded only once, however often it is sent
                        yield DISCONNECT
                        continue
                    breaker.fail(ticket, error)
                    self._script_until = 0.0
                    self.drops.drop(channel, type, error)
                    yield DISCONNECT
                    return None
                breaker.succeed()
                self.drops.recover()
                return reply
        finally:
            breaker.leave(ticket)

    @staticmethod
    def _is_transient(error: Exception) -> bool:
        """Whether another connection may succeed: this one broke, a packet was lost, or the server was busy for a moment."""
        return not isinstance(error, AuthenticationError | BusyLoadingError)

    def _refused(self, channel: str, type: str, error: ResponseError) -> Exchange[None]:
        text = str(error)
        if text.startswith("INVALID "):
            raise ValueError(text.removeprefix("INVALID ")) from None
        self.drops.drop(channel, type, error)
        if isinstance(error, ReadOnlyError):
            yield DISCONNECT  # after a failover the address leads to another server, but this connection to the old one

    def _send(self, command: Command) -> Exchange[Any]:
        return (yield command)

    def _record(self, arguments: Command) -> Exchange[Any]:
        """Run publish.lua: as a function, or as a script where there is no function."""
        if time.monotonic() < self._script_until:
            try:
                return (yield ("EVALSHA", self._digest, "1", *arguments))
            except NoScriptError:
                self._script_until = 0.0  # the server was restarted, and may be of another version
        try:
            return (yield ("FCALL", f"{self._prefix}_publish", "1", *arguments))
        except ResponseError as error:
            if not _has_no_function(error):
                raise
        # With its whole text rather than its digest, which saves a round trip; the server knows the digest from then on.
        reply = yield ("EVAL", self._script, "1", *arguments)
        self._script_until = time.monotonic() + SCRIPT_SECONDS
        return reply
