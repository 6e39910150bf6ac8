"""Cursor: where one client stands on one channel, and how far a page of the channel's log carries it.

    state    since  unread  live   what leads out of it
    new      set    True    False  advance(), which learns the position that "last" or "now" stands for: as from unread
    unread   None   True    False  advance(): read if ``finished``, otherwise unread, and the log is read again
    read     None   False   False  the subscription goes live: live; it falls behind: unread
    live     None   False   True   the subscription falls behind: unread; other channels are added to it: read

A cursor that begins at an id is unread from the start. The pages of one that was removed are ignored.

Of the ids, ``position`` is where the client stands: it has everything up to there. ``channel.heard`` is the newest announcement. What was
announced up to ``covered`` is in what was read, or Redis has lost it. So something is missing while ``heard`` is above both, and the
subscription cannot go live. ``announced`` is what ``heard`` was when queueing began: up to there only a page can help, not the queue.
"""

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
        subscription, channel: whose cursor this is, and on what
        write: the subscription's, kept here for the hot path
        position: the id up to which the client has everything; meaningless while ``since`` is set
        since: where the first read begins; ``None`` once that is done
        announced: the newest id announced on the channel when queueing began; the queue has nothing up to it
        covered: announcements up to this id are dealt with, even if ``position`` is lower because Redis lost its data
        live: whether the next event may be written at once
        unread: whether the log must be read first
        more: whether the last read did not reach the end of the log
        read_budget: bytes that the next read may bring; 0 until it is asked for
        done: whether the channel's final event was delivered
        came_now: whether the client began with ``now``
    """

    # Not a msgspec Struct: that would be created faster, but setting an attribute takes 26 ns instead of 7, and every event sets one
    # for every client.
    __slots__ = (
        "announced",
        "came_now",
        "channel",
        "covered",
        "done",
        "live",
        "more",
        "position",
        "read_budget",
        "since",
        "subscription",
        "unread",
        "write",
    )

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
        self.read_budget = 0
        self.done = False
        self.came_now = since == "now"

    @property
    def start(self) -> Since:
        """Where the next read begins."""
        return self.position if self.since is None else self.since

    def goes_on(self, since: Since) -> bool:
        """Whether a client that asks once more for this channel goes on from where it stands, and does not begin anew.

        It does unless it gives an id: what is published while its request is on the way must not be lost. Only one that came for nothing
        old has no newest event yet, and gets that if it asks for it.
        """
        return not isinstance(since, int) and self.since is None and not (self.came_now and since == "last")

    def horizon(self, page: Page, heard: int) -> int:
        """The id up to which nothing is missing from the page.

        Args:
            page: what was read at this cursor
            heard: the newest id announced on any channel
        """
        # Announcements come in order of id over all channels. If none has come on this channel since the page was read, the page
        # misses nothing up to the newest announcement on any channel.
        return max(page.horizon, heard) if page.complete and is_current(self.channel, page) else page.horizon

    def advance(self, page: Page, horizon: int, *, finished: bool) -> None:
        """Move on, now that the client was given the items of this page up to the horizon.

        Args:
            page: what was read at this cursor
            horizon: the lowest of the horizons of all pages that were read together
            finished: whether nothing is left to be read on any of the client's channels
        """
        self.unread = not finished
        self.more = not page.complete
        items = page.items
        if finished or page.position <= horizon or (items and items[0].id <= horizon):
            self.position = max(self.position, min(page.position, horizon))
            if not items or items[-1].id <= horizon:
                self.covered = page.heard
                self.done |= page.final
        elif self.since is not None:
            # The page lies beyond the horizon. Even so the first read fixes the positions that "last" and "now" stand for: a poll may
            # be answered, with its cursors, before this channel's items are delivered.
            self.position = items[0].id - 1 if items else page.position
        else:
            return  # the page lies beyond the horizon, so it is asked for again, with the same budget
        self.since = None
        self.read_budget = 0


# Given to filter, map and any, which then run in C: a generator would cost every new client a call of Python for each channel.
is_unread: Final = attrgetter("unread")


def has_missed(cursor: Cursor) -> bool:
    """Whether something was announced on the channel that the client does not have."""
    heard = cursor.channel.heard
    return heard > cursor.position and heard > cursor.covered


def is_current(channel: Channel, page: Page) -> bool:
    """Whether the page covers all that has been announced on the channel."""
    return channel.heard <= max(page.position, page.heard)
