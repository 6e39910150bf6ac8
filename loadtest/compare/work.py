"""Work, which every server has to do, and Row, which says what that cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Clients, spread evenly over one or more rooms, and events, each published to one room in turn.

    Attributes:
        rate: events a second
        padding: characters in each event besides its time of publishing
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
        """The name of a client's room; each client replaces ``#`` by its own number."""
        return "room" if self.rooms == 1 else "room-#"

    def __str__(self) -> str:
        where = "in one room" if self.rooms == 1 else f"in {self.rooms:,} rooms"
        return f"{self.clients:,} clients {where}, {self.events:,} events, {self.rate:,g} a second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the work cost one server.

    Attributes:
        us_per_event: microseconds of the server's CPU for each delivered event
        us_in_redis: the same in Redis, for a server that is published to through Redis
        us_per_connection: microseconds of the server's CPU for each connection that is opened
        kib_per_connection: memory of the server for each connection
        p50, p99: milliseconds from publishing to arrival
    """

    name: str
    us_per_event: float
    us_in_redis: float = 0.0
    us_per_connection: float
    kib_per_connection: float
    p50: float
    p99: float
