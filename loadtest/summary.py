"""The line that sums up a run, and its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

FOLLOWERS: Final = ("WS", "SSE", "POLL")


def count(entries: Mapping[tuple[str, str], Any], *names: str) -> int:
    """How many entries of these names the clients reported, failures included."""
    return sum(entry.num_requests for (name, transport), entry in entries.items() if name in names and transport in FOLLOWERS)


def faults(entries: Mapping[tuple[str, str], Any], silent: int = 0) -> list[str]:
    """What makes the run a failure, in words; empty if nothing does.

    Args:
        entries: locust's statistics by name and transport
        silent: locust processes that ended without having checked their users
    """
    received = count(entries, "delivery", "first event", "replay")
    found = []
    if lost := count(entries, "loss"):
        found.append(f"{lost} lost")
    if twice := count(entries, "duplicate"):
        found.append(f"{twice} twice or out of order")
    if silent:
        found.append(f"{silent} of locust's processes ended without reporting")
    if not received and sum(entry.num_requests for entry in entries.values()):
        found.append("no event came at all, so nothing was checked")
    return found


def summary(entries: Mapping[tuple[str, str], Any], silent: int = 0) -> str:
    """The run in one line."""
    received = count(entries, "delivery", "first event", "replay")
    latencies = "".join(_latency(entries, FOLLOWERS))
    found = faults(entries, silent)
    verdict = "FAILED: " + ", ".join(found) if found else "none lost, none twice"
    connects, gaps = count(entries, "connect"), count(entries, "gap")
    failed = "".join(f", {number} times {name} failed" for name in ("connect", "publish") if (number := _failures(entries, name)))
    return f"Notify Gateway: {connects} connects, {received} events received, {gaps} gaps told{failed}{latencies}: {verdict}"


def _failures(entries: Mapping[tuple[str, str], Any], name: str) -> int:
    return sum(entry.num_failures for (each, _), entry in entries.items() if each == name)


def _latency(entries: Mapping[tuple[str, str], Any], transports: Iterable[str]) -> Iterable[str]:
    for transport in transports:
        entry = entries.get(("delivery", transport))
        if entry is not None and entry.num_requests:
            p50, p99 = entry.get_response_time_percentile(0.5), entry.get_response_time_percentile(0.99)
            yield f"; {transport} p50 {p50:.0f} ms, p99 {p99:.0f} ms"
