"""One publish as an exchange with Redis, without I/O.

Each exchange is a generator. It yields the words of a Redis command and is sent the reply, or thrown the error; it yields
``DISCONNECT`` to have idle connections closed; it returns the result. Publisher and AsyncPublisher differ in nothing but how
they carry the words.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator
from importlib import resources
from typing import Any, Final, TypeVar

from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from notify_client.command import Words, check_channel, check_prefix, encode_event, encode_options
from notify_client.outage import Breaker, DropCallback, Ledger

Result = TypeVar("Result")
Exchange = Generator[Words, Any, Result]

DISCONNECT: Final[Words] = ()
SPENT: Final = 0.4  # of a call's time, at most, before it is tried again: connecting and the answer may take a third each
SCRIPT_SECONDS: Final = 60.0  # then the function is looked for again: a gateway may have come and loaded it


def _read_script(prefix: str, max_event_bytes: int) -> str:
    text = resources.files("notify_client").joinpath("publish.lua").read_text(encoding="utf-8")
    for name, value in (("@PREFIX@", prefix), ("@MAX_EVENT_BYTES@", str(max_event_bytes))):
        text = text.replace(name, value)
    return f"{text}\nreturn answer(publish, KEYS[1], ARGV)\n"


def _has_no_function(error: ResponseError) -> bool:
    text = str(error).removeprefix("ERR ").lower()
    return text.startswith(("unknown command", "function not found"))


class Desk:
    """What a publisher knows between two publishes: whether Redis answers, which way works, how many events were dropped.

    Args:
        prefix: as GATEWAY_PREFIX
        max_event_bytes: as GATEWAY_MAX_EVENT_BYTES
        timeout: seconds that one call may take
        on_drop: called for each event that is dropped
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
        self._process = os.getpid()
        self._breaker = Breaker()
        self._script_until = 0.0
        self.ledger = Ledger(self._on_drop)

    def publish(
        self, channel: str, type: str, data: Any, *, final: bool, key: str | None, keep: int | None, ttl: int | None, collapse: str | None
    ) -> Exchange[str | None]:
        """Record an event and announce it. Returns the id, or ``None`` if it was dropped."""
        check_channel(channel)
        words = (
            channel,
            encode_event(type, data, final=final, limit=self._limit),
            *encode_options(key=key, keep=keep, ttl=ttl, collapse=collapse),
        )
        id = yield from self._try(channel, type, words, recorded=True, again=key is not None)
        return id.decode() if isinstance(id, bytes) else id

    def live(self, channel: str, type: str, data: Any) -> Exchange[int | None]:
        """Announce an event without recording it. Returns how many gateways heard it, or ``None`` if it was dropped."""
        check_channel(channel)
        words = ("PUBLISH", f"{self._prefix}:{channel}", encode_event(type, data, final=False, limit=self._limit))
        heard: int | None = yield from self._try(channel, type, words, recorded=False, again=False)
        return heard

    def _try(self, channel: str, type: str, words: Words, *, recorded: bool, again: bool) -> Exchange[Any]:
        if self._process != os.getpid():
            self._start()  # a forked child: another thread of the parent may have held a lock or been the one to probe
        breaker, began = self._breaker, time.monotonic()
        ticket = breaker.enter(urgent=again)
        if ticket is None:
            self.ledger.drop(channel, type, breaker.reason or RedisConnectionError("Redis is being tried by another call"))
            return None
        try:
            while True:
                try:
                    reply = yield from self._record(words) if recorded else self._send(words)
                except ResponseError as error:
                    breaker.succeed()
                    yield from self._refused(channel, type, error)
                    return None
                except (RedisError, OSError) as error:
                    if again and self._is_passing(error) and time.monotonic() - began < self.timeout * SPENT:
                        again = False  # with a key it is recorded once however often it is sent
                        yield DISCONNECT
                        continue
                    breaker.fail(ticket, error)
                    self._script_until = 0.0
                    self.ledger.drop(channel, type, error)
                    yield DISCONNECT
                    return None
                breaker.succeed()
                self.ledger.recover()
                return reply
        finally:
            breaker.leave(ticket)

    @staticmethod
    def _is_passing(error: Exception) -> bool:
        """Whether another connection may do better: this one broke, a packet was lost, or the server was held up for a moment."""
        return not isinstance(error, AuthenticationError | BusyLoadingError)

    def _refused(self, channel: str, type: str, error: ResponseError) -> Exchange[None]:
        text = str(error)
        if text.startswith("INVALID "):
            raise ValueError(text.removeprefix("INVALID ")) from None
        self.ledger.drop(channel, type, error)
        if isinstance(error, ReadOnlyError):
            yield DISCONNECT  # after a fail-over the name leads to another server, the connection to the old one

    def _send(self, words: Words) -> Exchange[Any]:
        return (yield words)

    def _record(self, words: Words) -> Exchange[Any]:
        if time.monotonic() < self._script_until:
            try:
                return (yield ("EVALSHA", self._digest, 1, *words))
            except NoScriptError:
                self._script_until = 0.0  # it was restarted, and may be another version
        try:
            return (yield ("FCALL", f"{self._prefix}_publish", 1, *words))
        except ResponseError as error:
            if not _has_no_function(error):
                raise
        # The whole text rather than its digest: one round trip less, and the server knows the digest from then on.
        reply = yield ("EVAL", self._script, 1, *words)
        self._script_until = time.monotonic() + SCRIPT_SECONDS
        return reply
