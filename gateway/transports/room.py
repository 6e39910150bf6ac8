"""Room: how many connections are open in all, from each address and for each subject, and whether there is room for one more."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.errors import TooManyConnections, Unavailable


class Limits(NamedTuple):
    """How many connections there may be.

    Attributes:
        total: in all
        per_address: from one IPv4 address, or from one IPv6 network of 64 bits, which is what one customer is given; 0 for any number
        per_subject: for one ``sub``; 0 for any number
    """

    total: int
    per_address: int = 0
    per_subject: int = 0


def address_of(scope: Mapping[str, Any]) -> str:
    """The address that a connection is counted for; empty if the server gives none, as for a Unix socket."""
    client = scope.get("client")
    host = client[0] if client else ""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class Room:
    """Counts connections.

    Attributes:
        count: how many there are in all
    """

    def __init__(self, limits: Limits) -> None:
        self.count = 0
        self._limits = limits
        self._addresses: dict[str, int] = {}
        self._subjects: dict[str, int] = {}

    def check(self, address: str = "", subject: str = "") -> None:
        """Check that one more connection may be opened.

        Args:
            address: as ``address_of`` gives it; empty if it is not known
            subject: of its grant; empty if it is not known yet

        Raises:
            Unavailable: if there are as many connections as there may be in all.
            TooManyConnections: if there are as many as there may be from this address, or for this subject.
        """
        total, per_address, per_subject = self._limits
        if self.count >= total:
            raise _full(Unavailable, f"{total} connections are open")
        if per_address and address and self._addresses.get(address, 0) >= per_address:
            raise _full(TooManyConnections, f"{per_address} connections are open from this address")
        if per_subject and subject and self._subjects.get(subject, 0) >= per_subject:
            raise _full(TooManyConnections, f"{per_subject} connections are open for this token's sub")

    def enter(self, address: str, subject: str) -> None:
        """Count a connection that was opened."""
        self.count += 1
        for counts, name in ((self._addresses, address), (self._subjects, subject)):
            counts[name] = counts.get(name, 0) + 1

    def leave(self, address: str, subject: str) -> None:
        """Count a connection no more."""
        self.count -= 1
        for counts, name in ((self._addresses, address), (self._subjects, subject)):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]  # or the names of all clients that ever were would stay


def _full(kind: type[Unavailable], detail: str) -> Unavailable:
    # A random delay, so that clients do not all come back at once when there is room again.
    return kind(f"{detail}, more are not allowed", retry_after=random.randint(1, 5))
