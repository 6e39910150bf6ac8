"""Hub: which subscriptions of this process follow which channel, and the loop that writes an event to them.

This is the hot path: for a client that keeps up, an event costs one comparison with its cursor and one write of bytes that all clients
share.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gateway.core.cursor import Cursor
from gateway.core.subscription import Subscription, WireStats

if TYPE_CHECKING:
    from gateway.core.event import Event
    from gateway.core.page import Since
    from gateway.core.wire import Wire


WireGroup = tuple["Wire", WireStats, tuple[Cursor, ...]]
"""The followers of a channel that take one wire format, and that format's counters."""


class Channel:
    """A channel that this process is subscribed to at Redis: until some seconds after its last follower has left.

    Attributes:
        followers: the cursors of its clients, and the wire format of each
        groups: the same followers by wire format; ``None`` after a change, until the next event needs it
        heard: the id of the newest announcement
    """

    __slots__ = ("followers", "groups", "heard", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.followers: dict[Cursor, Wire] = {}
        self.groups: tuple[WireGroup, ...] | None = None
        self.heard = 0

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


class Hub:
    """The channels of this process.

    Attributes:
        channels: by name
        heard: the id of the newest announcement on any channel; announcements come in order of id
        following: the number of cursors
        idle: the channels that nobody follows, and when each lost its last follower, by the owner's clock; the latest stands last
        stats: what was written, by wire format
    """

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.heard = 0
        self.following = 0
        self.idle: dict[Channel, float] = {}
        self.stats: defaultdict[Wire, WireStats] = defaultdict(WireStats)

    def follow(self, subscription: Subscription, name: str, since: Since) -> Cursor:
        """Register a follower. If this adds the channel to ``channels``, the owner of the hub has to subscribe to it at Redis."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
        self.idle.pop(channel, None)
        cursor = Cursor(subscription, channel, since)
        channel.followers[cursor] = subscription.wire
        channel.groups = None
        subscription.stats = self.stats[subscription.wire]
        self.following += 1
        return cursor

    def leave(self, cursor: Cursor, now: float) -> None:
        """Remove a follower; if it was the last one, ``now`` is noted in ``idle``."""
        channel = cursor.channel
        if channel.followers.pop(cursor, None) is not None:
            channel.groups = None
            self.following -= 1
            if not channel.followers:
                self.idle[channel] = now
        cursor.subscription.remove(cursor)

    def forget(self, channel: Channel) -> None:
        """Remove a channel that nobody follows."""
        del self.channels[channel.name], self.idle[channel]

    def announce(self, event: Event) -> tuple[WireGroup, ...]:
        """Write an event to all followers for whom it comes next; the others have it already, or are behind.

        Returns:
            the channel's followers by wire format
        """
        channel = self.channels.get(event.channel)
        if channel is None:
            return ()
        id, before = event.id, event.before
        if id > channel.heard:
            channel.heard = id
            self.heard = max(self.heard, id)
        groups = channel.groups
        if groups is None:
            groups = channel.groups = self._group_followers(channel)
        for wire, stats, cursors in groups:
            data = event.encode(wire)
            count = len(cursors)
            for cursor in cursors:
                if cursor.live and before <= cursor.position < id:
                    cursor.position = id
                    cursor.write(data)
                else:
                    count -= 1
                    cursor.subscription.miss(cursor, event)
            stats.events += count
            stats.bytes += count * len(data)
        if event.final:
            self._finish(channel)
        return groups

    def _group_followers(self, channel: Channel) -> tuple[WireGroup, ...]:
        followers = channel.followers
        return tuple(
            (wire, self.stats[wire], tuple([cursor for cursor, own in followers.items() if own is wire]))
            for wire in set(followers.values())
        )

    def _finish(self, channel: Channel) -> None:
        for cursor in tuple(channel.followers):
            if cursor.live:  # it was written to, or had the event already
                cursor.done = True
                cursor.subscription.check_done()

    def forget_heard(self) -> None:
        """What was heard cannot be true: count from the next announcement on."""
        self.heard = 0
        for channel in self.channels.values():
            channel.heard = 0

    def all_behind(self) -> None:
        """The connection to Redis was lost: every subscription may have missed something."""
        for subscription in self.subscriptions():
            subscription.fall_behind()

    def subscriptions(self) -> dict[Subscription, None]:
        """All subscriptions that follow a channel, each once, in a stable order."""
        return {cursor.subscription: None for channel in self.channels.values() for cursor in channel.followers}
