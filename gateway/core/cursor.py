"""Cursor: where one client stands on one channel, and how far a page of the channel's log carries it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.core.hub import Channel
    from gateway.core.page import Page, Since
    from gateway.core.subscription import Subscription


class Cursor:
    """Where one client stands on one channel.

    Attributes:
        write: that of the subscription
        position: id up to which the client has everything; meaningless while ``since`` is set
        since: where the first read begins, ``None`` once that is done
        announced: what had been announced on the channel when the queue was begun
        covered: an announcement up to this id is dealt with, even if the position lies below it (Redis lost its data)
        live: whether the next event may be written at once
        unread: whether the log must be read before that
        more: whether the last read did not reach the end of the log
        room: bytes that the read of this place may bring, 0 until it is asked for
        done: whether the channel's final event was delivered
    """

    # No structure of msgspec's: made sooner, but an attribute is set in 26 ns instead of 7, and each event sets one for each client.
    __slots__ = ("announced", "channel", "covered", "done", "live", "more", "position", "room", "since", "subscription", "unread", "write")

    def __init__(self, subscription: Subscription, channel: Channel, since: Since) -> None:
        self.subscription = subscription
        self.channel = channel
        self.write = subscription.write
        self.since: Since | None = None if isinstance(since, int) else since
        self.position = since if isinstance(since, int) else 0
        self.announced = 0
        self.covered = 0
        self.live = False
        self.unread = True
        self.more = False
        self.room = 0
        self.done = False

    @property
    def start(self) -> Since:
        """Where to read from."""
        return self.position if self.since is None else self.since

    def horizon(self, page: Page, heard: int) -> int:
        """Up to this id nothing is missing from the page; ``heard`` is the newest id announced on any channel."""
        # Announcements come in order of id. If none has come on this channel since the page was read, the page is complete up
        # to the newest announcement of all.
        return max(page.horizon, heard) if page.complete and is_current(self.channel, page) else page.horizon

    def follow(self, page: Page, horizon: int, *, finished: bool) -> None:
        """Move to where the client stands, who was given what lies within the horizon of this page.

        Args:
            page: what was read at this cursor
            horizon: the nearest of those of all pages that were read together
            finished: whether nothing is left to be read
        """
        self.unread = not finished
        self.more = not page.complete
        items = page.items
        if not (finished or page.position <= horizon or (items and items[0].id <= horizon)):
            if self.since is not None:
                # The first look settles where "last" and "now" are: a poll may be answered before this channel has its turn.
                self.position = items[0].id - 1 if items else page.position
                self.since = None
                self.room = 0
            return
        self.since = None
        self.room = 0
        self.position = max(self.position, min(page.position, horizon))
        if not items or items[-1].id <= horizon:
            self.covered = page.heard
            self.done |= page.final


is_unread: Final = attrgetter("unread")


def has_missed(cursor: Cursor) -> bool:
    """Whether something was announced on the channel that the client has not got."""
    heard = cursor.channel.heard
    return heard > cursor.position and heard > cursor.covered


def is_current(channel: Channel, page: Page) -> bool:
    """Whether nothing has been announced on the channel that the page does not cover."""
    return channel.heard <= max(page.position, page.heard)
