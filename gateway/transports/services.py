"""Services: what all endpoints of the application share."""

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
    """What all endpoints share.

    Attributes:
        feed: brings the events
        connections: those that are open
        gate: decides who may come in
        access: watches over how long they may stay
        max_channels: that one client may follow
        max_event_bytes: of an event's JSON
        anybody: whether there is no authentication, so that everybody may do everything
        running: whether the application's lifespan is entered
        draining: whether the process is shutting down
        catch_up: the feed's method, kept so that all subscriptions share one bound method
    """

    feed: Feed
    connections: Connections
    gate: Gate
    access: Access
    max_channels: int = 128
    max_event_bytes: int = MAX_EVENT_BYTES
    anybody: bool = False
    running: bool = False
    draining: bool = False
    catch_up: Callable[[Subscription], None] = field(init=False)

    def __post_init__(self) -> None:
        self.catch_up = self.feed.catch_up

    def check_room(self, address: str, *, is_event_source: bool = False) -> None:
        """Check that a stream may be opened now.

        While the process shuts down only an EventSource may open one. After an error answer it would give up for good (WHATWG HTML, section
        9.2.3), and those whose streams the drain closes first come back while it goes on. Others know what to make of a 503.

        Raises:
            Unavailable: if none may be, or none from this address.
        """
        if not self.running:
            raise Unavailable(NOT_RUNNING)
        if self.draining and not is_event_source:
            raise Unavailable("the gateway is shutting down, another one takes over")
        self.connections.room.check(address)

    def recheck(self, grant: Grant) -> None:
        """Check a grant again after the body has come, which may have taken half a minute.

        Raises:
            Unauthorized: if the grant has expired since, or was revoked.
        """
        if not self.anybody:
            self.access.check(grant)
