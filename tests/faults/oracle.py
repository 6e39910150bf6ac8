"""The oracle: decides whether what each client received agrees with what was published.

The publishers keep a ``Ledger``, every client a ``ClientLog``. ``judge`` compares them by these rules:

    L1  each acknowledged event was received, or a gap notice came before any later event of that channel
    L2  no id twice                      L3  ids rise
    L4  an event of unknown outcome arrives once or not at all; an event that was refused never
    L5  after the fault is over all logs agree with the ledger: ``Stage.caught_up`` waits for that and measures how long it took
    L6  no client receives events of a channel that it does not follow

A gap notice where nothing was missing is a fault, too.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Outcome = Literal["unknown", "acknowledged", "refused"]

SHOWN_FAULTS = 5
AROUND = 8  # lines of ledger and log shown before and after a fault


@dataclass(slots=True)
class Publication:
    """One event in the ledger. Its data carries ``number``, by which an event of unknown outcome is recognised if it arrives."""

    number: int
    channel: str
    label: str | None
    began: float
    ended: float = 0.0
    outcome: Outcome = "unknown"
    id: int = 0

    def acknowledge(self, id: int) -> None:
        self.outcome, self.id, self.ended = "acknowledged", id, time.monotonic()

    def refuse(self) -> None:
        self.outcome, self.ended = "refused", time.monotonic()

    def __str__(self) -> str:
        label = f" label {self.label}" if self.label else ""
        return f"{self.began:.3f} publication {self.number} on {self.channel}{label}: {self.outcome} {self.id or ''}"


class Ledger:
    """What was published with which outcome, and the times at which Redis may have lost data."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.losses: list[float] = []

    def begin(self, channel: str, label: str | None = None) -> Publication:
        """Note an event before it is sent."""
        publication = Publication(len(self.publications), channel, label, time.monotonic())
        self.publications.append(publication)
        return publication

    def may_lose(self) -> None:
        """Redis may have lost data just now: each client may get one gap notice per channel for which nothing seems to be missing."""
        self.losses.append(time.monotonic())

    def count(self, outcome: Outcome) -> int:
        return sum(p.outcome == outcome for p in self.publications)


@dataclass(slots=True)
class Line:
    """One line of a client's log.

    Attributes:
        id: of an event; 0 for anything else and for live-only events
        number: of the publication that the event came from; -1 if there is none
        answer: which answer it came in, for long polling: 1, 2, ...; 0 on other transports
    """

    time: float
    kind: Literal["event", "gap", "ready", "open", "end"]
    channel: str = ""
    id: int = 0
    number: int = -1
    text: str = ""
    answer: int = 0

    def __str__(self) -> str:
        number = f"(publication {self.number})" if self.number >= 0 else ""
        return f"{self.time:.3f} {self.kind} {self.channel} {self.id or ''} {number}{self.text}"


@dataclass(slots=True)
class ClientLog:
    """What one client received. ``begins`` is its cursor on each channel before its first event."""

    name: str
    channels: frozenset[str]
    begins: dict[str, int] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def gaps(self) -> int:
        return sum(line.kind == "gap" for line in self.lines)


@dataclass(slots=True)
class Verdict:
    """The result. ``faults`` is empty if every client's log agrees with the ledger."""

    clients: int = 0
    published: int = 0
    received: int = 0
    gaps: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        events = f"{self.published} events published, {self.received} received"
        return f"{self.clients} clients, {events}, {self.gaps} gaps, {len(self.faults)} faults"


class Oracle:
    """Judges clients by one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._acknowledged: dict[str, list[Publication]] = defaultdict(list)
        self._ids: dict[str, list[int]] = {}
        self._unknown: dict[str, list[Publication]] = defaultdict(list)
        self._seen: dict[int, int] = {}  # publication -> the id under which it was received
        self._faults: list[str] = []
        for publication in ledger.publications:
            if publication.outcome == "acknowledged":
                self._acknowledged[publication.channel].append(publication)
            elif publication.outcome == "unknown":
                self._unknown[publication.channel].append(publication)
        for channel, publications in self._acknowledged.items():
            publications.sort(key=lambda p: p.id)
            self._ids[channel] = [p.id for p in publications]

    def judge(self, logs: Iterable[ClientLog]) -> Verdict:
        """Compare each log with the ledger."""
        verdict = Verdict(published=len(self._ledger.publications))
        everything = sorted(p.id for publications in self._acknowledged.values() for p in publications)
        for first, second in pairwise(everything):
            if first == second:
                self._faults.append(f"L2: two publications were acknowledged with the id {first}\n")
        for log in logs:
            verdict.clients += 1
            verdict.gaps += log.gaps()
            by_channel: dict[str, list[Line]] = {channel: [] for channel in log.channels}
            for line in log.lines:
                if line.kind == "event":
                    verdict.received += 1
                if line.kind not in ("event", "gap"):
                    continue
                if line.channel not in by_channel:
                    self._blame(log, line, "L6: it does not follow this channel")
                    continue
                by_channel[line.channel].append(line)
            for channel, lines in by_channel.items():
                self._judge_channel(log, channel, lines)
        verdict.faults = self._faults
        return verdict

    def _judge_channel(self, log: ClientLog, channel: str, lines: list[Line]) -> None:
        begin = log.begins.get(channel)
        if begin is None:
            if lines:
                self._blame(log, lines[0], "it received something before it had a cursor")
            return
        position, gap, losses = begin, None, list(self._ledger.losses)
        told: Line | None = None  # the gap notice of a poll, which may mean any place in its answer
        for line in lines:
            if told is not None and line.answer != told.answer:
                gap, told = gap or (told if told.text else None), None
            if line.kind == "gap":
                if line.answer:
                    told, line.text = line, "unproved"
                else:
                    gap = gap or line
                continue
            if not line.id:
                continue  # live-only events are not guaranteed
            self._judge_event(log, line, position)
            if gap is None and told is not None and self._missing(channel, position, line.id):
                gap, told.text = told, ""
            self._judge_between(log, channel, position, line.id, gap, losses, line)
            position, gap = max(position, line.id), None
        if told is not None and told.text:
            gap = gap or told
        self._judge_between(log, channel, position, 2**62, gap, losses, None)

    def _judge_event(self, log: ClientLog, line: Line, position: int) -> None:
        if line.id <= position:
            rule = "L2: this id came twice" if any(o.id == line.id for o in log.lines if o is not line) else "L3: ids do not rise"
            self._blame(log, line, f"{rule}; it stood at {position}")
        if not 0 <= line.number < len(self._ledger.publications):
            self._blame(log, line, "nobody published this")
            return
        publication = self._ledger.publications[line.number]
        if publication.channel != line.channel:
            self._blame(log, line, f"L6: this was published on {publication.channel}")
        elif publication.outcome == "refused":
            self._blame(log, line, "L4: this was refused")
        elif publication.outcome == "acknowledged" and publication.id != line.id:
            self._blame(log, line, f"this was acknowledged with the id {publication.id}")
        elif self._seen.setdefault(line.number, line.id) != line.id:
            self._blame(log, line, f"L4: this event also came with the id {self._seen[line.number]}")

    def _judge_between(
        self, log: ClientLog, channel: str, after: int, before: int, gap: Line | None, losses: list[float], line: Line | None
    ) -> None:
        """Check that no event is missing between two ids unless a gap notice came, and that something is missing if one did."""
        missing = self._missing(channel, after, before)
        lost = [p for p in missing if not self._superseded(p)]
        if lost and gap is None:
            self._blame(log, line, f"L1: lost in silence: {lost[0]} ({len(lost)} in all)", channel, lost[0])
        if gap is None or missing or self._may_hold_unknown(channel, after, before):
            return
        for moment in losses:
            if moment <= gap.time:
                losses.remove(moment)
                return
        self._blame(log, gap, "a gap where nothing was missing")

    def _missing(self, channel: str, after: int, before: int) -> list[Publication]:
        ids = self._ids.get(channel, [])
        low = bisect_right(ids, after)
        high = bisect_right(ids, before - 1)
        return self._acknowledged[channel][low:high] if high > low else []

    def _superseded(self, publication: Publication) -> bool:
        """Whether the next event of the channel has replaced it in the log, or may have."""
        if publication.label is None:
            return False
        place = bisect_right(self._ids[publication.channel], publication.id)
        following = self._acknowledged[publication.channel][place : place + 1]
        if following and following[0].label == publication.label:
            return True
        latest = following[0].ended if following else float("inf")
        return any(p.label == publication.label and p.began <= latest for p in self._unknown[publication.channel])

    def _may_hold_unknown(self, channel: str, after: int, before: int) -> bool:
        # Ids are times of Redis's clock, not of ours; so the publications with the neighbouring ids bound the time instead.
        ids = self._ids.get(channel, [])
        publications = self._acknowledged.get(channel, [])
        low, high = bisect_right(ids, after) - 1, bisect_right(ids, before - 1)
        earliest = publications[low].began if low >= 0 else 0.0
        latest = publications[high].ended if high < len(publications) else float("inf")
        return any(earliest <= p.began <= latest for p in self._unknown.get(channel, []) if p.number not in self._seen)

    def _blame(self, log: ClientLog, line: Line | None, why: str, channel: str = "", publication: Publication | None = None) -> None:
        if len(self._faults) >= SHOWN_FAULTS:
            self._faults.append(f"client {log.name}: {why}\n")
            return
        channel = channel or (line.channel if line else "")
        mine = [entry for entry in log.lines if entry.channel in ("", channel)]
        at = next((i for i, entry in enumerate(mine) if entry is line), len(mine))
        known = [p for p in self._ledger.publications if p.channel == channel]
        number = publication.number if publication else line.number if line and line.number >= 0 else None
        if number is None:
            moment = line.time if line else float("inf")
            place = sum(p.began <= moment for p in known)
        else:
            place = sum(p.number < number for p in known)
        self._faults.append(
            f"client {log.name}: {why}\n"
            f"  its log on {channel}, around {line or 'the end'}:\n"
            + "".join(f"    {'>' if entry is line else ' '} {entry}\n" for entry in mine[max(0, at - AROUND) : at + AROUND])
            + "  the ledger around it:\n"
            + "".join(f"    {'>' if p.number == number else ' '} {p}\n" for p in known[max(0, place - AROUND) : place + AROUND])
            + "".join(f"  Redis may have lost data at {moment:.3f}\n" for moment in self._ledger.losses)
        )


def judge(ledger: Ledger, logs: Iterable[ClientLog]) -> Verdict:
    """Compare each client's log with the ledger."""
    return Oracle(ledger).judge(logs)
