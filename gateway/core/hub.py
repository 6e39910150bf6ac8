"""Hub: which subscriptions of this process follow which channel, and the loop that writes an event to them.

This is the hot path. For a client that keeps up an event costs a comparison of its cursor and a write of bytes that all
clients share.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gateway.core.subscription import Cursor, Subscription, Written

if TYPE_CHECKING:
    from gateway.core.event import Event, Wire
    from gateway.core.page import Since


class Channel:
    """A channel that this process follows, from the subscription at Redis until the last client has left for a while.

    Attributes:
        followers: the cursors of its clients, by the form in which they want their bytes
        heard: id of the newest announcement
        idle_since: when the last follower left, by the owner's clock; ``None`` while there is one
    """

    __slots__ = ("followers", "heard", "idle_since", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.followers: dict[Wire, dict[Cursor, None]] = {}
        self.heard = 0
        self.idle_since: float | None = None

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


class Hub:
    """The channels of this process.

    Attributes:
        heard: id of the newest announcement on any channel; they come in order of id
        following: how many cursors there are
        written: what was written, by wire
    """

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.heard = 0
        self.following = 0
        self.written: defaultdict[Wire, Written] = defaultdict(Written)

    def follow(self, subscription: Subscription, name: str, since: Since) -> Cursor:
        """Register a follower. The channel is in ``channels`` from now on; its owner subscribes at Redis."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
        channel.idle_since = None
        cursor = Cursor(subscription, channel, since)
        channel.followers.setdefault(subscription.wire, {})[cursor] = None
        subscription.written = self.written[subscription.wire]
        self.following += 1
        return cursor

    def leave(self, cursor: Cursor, now: float) -> None:
        """Take a follower out; ``now`` is noted on a channel that has no other."""
        channel, wire = cursor.channel, cursor.subscription.wire
        cursors = channel.followers.get(wire)
        if cursors is not None and cursor in cursors:
            del cursors[cursor]
            self.following -= 1
            if not cursors:
                del channel.followers[wire]
        cursor.subscription.forget(cursor)
        if not channel.followers:
            channel.idle_since = now

    def announce(self, event: Event) -> None:
        """Write an event to all who are next in line for it; the others have it, or are behind."""
        channel = self.channels.get(event.channel)
        if channel is None:
            return
        id, before = event.id, event.before
        if id > channel.heard:
            channel.heard = id
            self.heard = max(self.heard, id)
        for wire, followers in tuple(channel.followers.items()):
            data = event.encode(wire)
            cursors = tuple(followers)
            count = len(cursors)
            for cursor in cursors:
                if cursor.live and before <= cursor.position < id:
                    cursor.position = id
                    cursor.write(data)
                else:
                    count -= 1
                    cursor.subscription.miss(cursor, event)
            written = self.written[wire]
            written.events += count
            written.bytes += count * len(data)
        if event.final:
            self._finish(channel)

    def _finish(self, channel: Channel) -> None:
        for cursors in tuple(channel.followers.values()):
            for cursor in tuple(cursors):
                if cursor.live and cursor.position >= channel.heard:
                    cursor.done = True
                    cursor.subscription.check_done()

    def all_behind(self) -> None:
        """The connection to Redis was lost: every subscription may have missed something."""
        for subscription in self.subscriptions():
            subscription.fall_behind()

    def subscriptions(self) -> dict[Subscription, None]:
        """All subscriptions that follow something."""
        return {c.subscription: None for ch in self.channels.values() for cursors in ch.followers.values() for c in cursors}
