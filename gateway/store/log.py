"""Log: append events to a channel's log, and read it after a cursor, through publish.lua and read.lua."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.core.event import MAX_EVENT_BYTES, Malformed, parse_entry, parse_entry_head, show
from gateway.core.page import Answer, Entry, Page, Since, make_page
from gateway.errors import GatewayError, Unavailable, Unprocessable
from gateway.store.connection import ask, drop_idle, needs_redis
from gateway.store.library import Library

logger = logging.getLogger("gateway.log")

# Several logs are read with one command, because a command costs more in redis-py than the read itself costs Redis. Not more than
# these, because Redis does nothing else meanwhile, and 16 pages may be 1 MiB.
READS_TOGETHER: Final = 16
FINAL: Final = (b"1", b"3")  # the digit that publish.lua puts after the id of a final event

TRIES: Final = 3  # to load our functions and call them: each newer gateway that starts deletes an older one's functions once
APPEND_SECONDS: Final = 4.5  # for a connection, an answer and a second try; a process that ends waits 5 s for its last requests


@dataclass(frozen=True, slots=True)
class Publication:
    """One event for one channel, as ``notify_publish`` takes it. One that is live-only is announced but not recorded."""

    channel: str
    json: bytes
    key: str | None = None
    keep: int | None = None
    ttl: int | None = None
    collapse: str | None = None
    live: bool = False

    def arguments(self) -> list[bytes | str | int]:
        """The channel, the JSON and the options."""
        arguments: list[bytes | str | int] = [self.channel, self.json]
        for name in ("key", "keep", "ttl", "collapse"):
            if (value := getattr(self, name)) is not None:
                arguments += [name.upper(), value]
        return arguments


class Log:
    """The logs of all channels of one Redis.

    Attributes:
        malformed: how many log entries were skipped because they were not events
    """

    def __init__(self, client: Redis, prefix: str = "notify", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.malformed = 0
        self._client = client
        self._prefix = prefix
        self._limit = max_event_bytes
        self._library = Library(prefix, max_event_bytes)
        self._loaded = False  # whether a server that it has reached had our functions

    async def open(self, heard: int = 0, holder: bytes = b"") -> bytes:
        """Make sure that the server has our functions, and tell it the newest id that this process has heard of.

        To be called at start and after each loss of the connection, because a server that came back empty knows neither.

        Args:
            heard: the newest id heard of
            holder: who held the data when it was heard, as an earlier call returned it; empty if that is not known

        Returns:
            who holds the data now

        Raises:
            RedisError, OSError: if Redis cannot be reached, or refuses.
        """
        # Idle connections may lead to a former master, which still answers reads but lags behind.
        await drop_idle(self._client)
        for _ in range(TRIES):
            if not self._loaded:  # else the server most likely has them: to look costs 50 KB, which takes a poor network seconds
                await self._library.load(self._client)
            for name in ("check_clock", "sync_clock"):  # the second one writes, which the server may refuse at this moment
                [answer] = await ask(self._client, [self._library.command(name, 0, heard, holder)])
                if answer is not None:
                    break
            self._loaded = not isinstance(answer, ResponseError)
            if not _is_missing(answer):
                break
        if isinstance(answer, Exception):
            raise answer
        present: bytes = answer
        return present

    async def _run(self, name: str, calls: Sequence[Any]) -> list[Any]:
        """Run one of our functions once for each of these calls. A refused call has its exception as its result."""
        results = await self._run_once(name, calls)
        for _ in range(TRIES):
            missing = [i for i, result in enumerate(results) if _is_missing(result)]
            if not missing:
                break
            self._loaded = False
            await self.open()
            for i, result in zip(missing, await self._run_once(name, [calls[i] for i in missing]), strict=True):
                results[i] = result
        return results

    async def _run_once(self, name: str, calls: Sequence[Any]) -> list[Any]:
        if name == "publish":
            return await ask(self._client, [self._publish(publication) for publication in calls])
        groups = [calls[i : i + READS_TOGETHER] for i in range(0, len(calls), READS_TOGETHER)]
        commands = []
        for group in groups:
            wanted = [value for _, since, size in group for value in (since, size)]
            commands.append(self._library.command(name, len(group), *[channel for channel, _, _ in group], *wanted))
        answers = await ask(self._client, commands)
        together = zip(groups, answers, strict=True)
        return [answer for group, found in together for answer in (found if isinstance(found, list) else [found] * len(group))]

    def _publish(self, publication: Publication) -> tuple[Any, ...]:
        if publication.live:
            return ("PUBLISH", f"{self._prefix}:{publication.channel}", publication.json)
        return self._library.command("publish", 1, *publication.arguments())

    async def append(self, publications: Sequence[Publication]) -> list[str | GatewayError | None]:
        """Record events, and announce each that was recorded or is live-only, in this order.

        Returns:
            for each event its id, ``None`` if it is live-only, or the error with which it was refused

        Raises:
            Unavailable: if Redis is away. Then any of them may or may not have been recorded.
        """
        with needs_redis():
            async with asyncio.timeout(APPEND_SECONDS):
                results = await self._run("publish", publications)
        return [_refusal(result) if isinstance(result, Exception) else _id(result) for result in results]

    async def probe(self, channel: str, json: bytes) -> None:
        """Publish a live-only event, and put our functions back if somebody has flushed them: publishers call them without us.

        Raises:
            Unavailable: if Redis is away.
        """
        with needs_redis():
            _, *found = await ask(self._client, [("PUBLISH", f"{self._prefix}:{channel}", json), *self._library.looks()])
            if [] in found:
                self._loaded = False
                await self.open()

    async def read(self, wanted: Sequence[tuple[str, Since, int]]) -> list[Page | RedisError]:
        """Read the logs of channels.

        Args:
            wanted: for each read the channel, where to begin, and how many bytes it may bring at most (it brings at least one entry)

        Returns:
            for each read a page, or Redis's error, so that one that is refused does not fail the others

        Raises:
            RedisError, OSError: if Redis is away.
        """
        results = await self._run("reads", [(channel, since, size) for channel, since, size in wanted])
        pages: list[Page | RedisError] = []
        for (channel, since, _), result in zip(wanted, results, strict=True):
            if isinstance(result, RedisError):
                logger.warning("channel %s: its log could not be read: %s", channel, show(str(result), 200))
                pages.append(result)
            else:
                pages.append(make_page(since, self._answer(channel, result)))
        return pages

    def _answer(self, channel: str, reply: list[Any]) -> Answer:
        """Parse a reply of read.lua."""
        clock, floors, last, more, *raw = reply
        entries = [entry for data in raw if (entry := self._entry(channel, data)) is not None] if raw else []
        newest, final = int(last[:-1] or 0), last[-1:] in FINAL
        if not newest and entries and not more:  # Redis has lost the channel's newest id, but not its log
            event = entries[-1].event
            newest, final = entries[-1].id, event is not None and event.final
        next_entry = _next_entry(more) if isinstance(more, bytes) else None
        return Answer(int(clock), _floors(floors), newest, final, bool(more), entries, next_entry)

    def _entry(self, channel: str, data: bytes) -> Entry | None:
        try:
            event = parse_entry(channel, data, self._limit)
        except Malformed as error:
            self.malformed += 1
            logger.warning("channel %s: a log entry was stepped over: %s", channel, error)
            with suppress(Malformed):
                return Entry(*parse_entry_head(data)[:2], None)
            return None
        return Entry(event.id, event.before, event)


@lru_cache(16)
def _floors(text: bytes) -> tuple[int, ...]:
    return tuple(map(int, text.split()))  # cached, because every answer has the floors and they hardly ever change


def _next_entry(text: bytes) -> tuple[int, int]:
    id, _, before = text.partition(b" ")
    return int(id), int(before)


def _is_missing(answer: object) -> bool:
    """Whether a call was refused because the server does not have our function."""
    return isinstance(answer, NoScriptError) or (isinstance(answer, ResponseError) and "unction not found" in str(answer))


def _id(answer: bytes | int) -> str | None:
    return answer.decode() if isinstance(answer, bytes) else None  # PUBLISH answers with a number


def _refusal(error: Exception) -> GatewayError:
    text = str(error)
    if text.startswith("INVALID "):
        return Unprocessable(text.removeprefix("INVALID "))
    return Unavailable(f"Redis refused the event: {show(text, 200)}")
