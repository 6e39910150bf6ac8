"""Services: what the application hands to each of its endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.core.event import MAX_EVENT_BYTES
from gateway.core.grant import Grant
from gateway.core.subscription import Subscription
from gateway.errors import Unavailable
from gateway.feed import Feed
from gateway.transports.access import Access
from gateway.transports.connections import Connections
from gateway.transports.credentials import Gate

NOT_RUNNING: Final = "the gateway is not running: its lifespan was not entered"


@dataclass(slots=True)
class Services:
    """The one feed, the open connections, who may come in and stay, and the limits."""

    feed: Feed
    connections: Connections
    gate: Gate
    access: Access
    max_channels: int = 128
    max_event_bytes: int = MAX_EVENT_BYTES
    anybody: bool = False  # no authentication: everybody may do everything
    running: bool = False
    draining: bool = False
    catch_up: Callable[[Subscription], None] = field(init=False)  # the feed's, one object for all subscriptions

    def __post_init__(self) -> None:
        self.catch_up = self.feed.catch_up

    def check_room(self, address: str) -> None:
        """
        Raises:
            Unavailable: if no further stream may be opened now, or none from this address.
        """
        if not self.running:
            raise Unavailable(NOT_RUNNING)
        if self.draining:
            raise Unavailable("the gateway is shutting down, another one takes over")
        self.connections.check_room(address)

    def check_still(self, grant: Grant) -> None:
        """Check once more, behind a body, which may have taken half a minute to come.

        Raises:
            Unauthorized: if the grant has expired meanwhile, or was revoked.
        """
        if not self.anybody:
            self.access.check(grant)
