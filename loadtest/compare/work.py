"""Work and row: what every target has to do, and what that cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every target has to do: so many clients in one room (or spread over more), so many events, so many a second.

    Each event goes to one room, and they have their turn.
    """

    clients: int
    events: int
    rate: float
    rooms: int = 1
    padding: int = 120

    @property
    def deliveries(self) -> int:
        return self.clients // self.rooms * self.events

    @property
    def room(self) -> str:
        """What a client names as its room; its number stands for a ``#``."""
        return "room" if self.rooms == 1 else "room-#"

    def __str__(self) -> str:
        where = "in one room" if self.rooms == 1 else f"in {self.rooms:,} rooms"
        return f"{self.clients:,} clients {where}, {self.events:,} events, {self.rate:,g} a second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one run cost. Times in microseconds of CPU, those in Redis by themselves, or milliseconds from publishing to arrival."""

    name: str
    us_per_event: float
    us_in_redis: float = 0.0
    us_per_connection: float
    kib_per_connection: float
    p50: float
    p99: float
