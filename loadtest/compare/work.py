"""Work and row: what every target has to do, and what that cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every target has to do: so many clients in one room (or spread over more), so many events, so many a second."""

    clients: int
    events: int
    rate: float
    rooms: int = 1
    padding: int = 120

    @property
    def deliveries(self) -> int:
        return self.clients // self.rooms * self.events

    def __str__(self) -> str:
        return f"{self.clients:,} clients in one room, {self.events} events, {self.rate:g} a second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one run cost. Times in microseconds of CPU, or milliseconds from publishing to arrival."""

    name: str
    us_per_event: float
    us_per_connection: float
    kib_per_connection: float
    p50: float
    p99: float
