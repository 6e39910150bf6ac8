"""Hub: which subscriptions of this process follow which channel, and the loop that writes an event to them.

This is the hot path. For a client that keeps up an event costs a comparison of its cursor and a write of bytes that all
clients share.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gateway.core.cursor import Cursor
from gateway.core.subscription import Subscription, Written

if TYPE_CHECKING:
    from gateway.core.event import Event, Wire
    from gateway.core.page import Since


Line = tuple["Wire", Written, tuple[Cursor, ...]]
"""Those who want their bytes in one form, and the account of them."""


class Channel:
    """A channel that this process follows, from the subscription at Redis until the last client has left for a while.

    Attributes:
        followers: the cursors of its clients, and the form in which each wants its bytes
        lines: the same by form, made when an event has come after a change; ``None`` until then
        heard: id of the newest announcement
    """

    __slots__ = ("followers", "heard", "lines", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.followers: dict[Cursor, Wire] = {}
        self.lines: tuple[Line, ...] | None = None
        self.heard = 0

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


class Hub:
    """The channels of this process.

    Attributes:
        heard: id of the newest announcement on any channel; they come in order of id
        following: how many cursors there are
        idle: the channels that nobody follows, and when the last follower left, by the owner's clock
        written: what was written, by wire
    """

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.heard = 0
        self.following = 0
        self.idle: dict[Channel, float] = {}
        self.written: defaultdict[Wire, Written] = defaultdict(Written)

    def follow(self, subscription: Subscription, name: str, since: Since) -> Cursor:
        """Register a follower. The channel is in ``channels`` from now on; its owner subscribes at Redis."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
        self.idle.pop(channel, None)
        cursor = Cursor(subscription, channel, since)
        channel.followers[cursor] = subscription.wire
        channel.lines = None
        subscription.written = self.written[subscription.wire]
        self.following += 1
        return cursor

    def leave(self, cursor: Cursor, now: float) -> None:
        """Take a follower out; ``now`` is noted for a channel that has no other."""
        channel = cursor.channel
        if channel.followers.pop(cursor, None) is not None:
            channel.lines = None
            self.following -= 1
            if not channel.followers:
                self.idle[channel] = now
        cursor.subscription.forget(cursor)

    def forget(self, channel: Channel) -> None:
        """Give up a channel that nobody follows."""
        del self.channels[channel.name], self.idle[channel]

    def announce(self, event: Event) -> tuple[Line, ...]:
        """Write an event to all who are next in line for it; the others have it, or are behind.

        Returns:
            the channel's followers
        """
        channel = self.channels.get(event.channel)
        if channel is None:
            return ()
        id, before = event.id, event.before
        if id > channel.heard:
            channel.heard = id
            self.heard = max(self.heard, id)
        lines = channel.lines
        if lines is None:
            lines = channel.lines = self._line_up(channel)
        for wire, written, cursors in lines:
            data = event.encode(wire)
            count = len(cursors)
            for cursor in cursors:
                if cursor.live and before <= cursor.position < id:
                    cursor.position = id
                    cursor.write(data)
                else:
                    count -= 1
                    cursor.subscription.miss(cursor, event)
            written.events += count
            written.bytes += count * len(data)
        if event.final:
            self._finish(channel)
        return lines

    def _line_up(self, channel: Channel) -> tuple[Line, ...]:
        wanted = channel.followers
        return tuple(
            (wire, self.written[wire], tuple([cursor for cursor, form in wanted.items() if form is wire])) for wire in set(wanted.values())
        )

    def _finish(self, channel: Channel) -> None:
        for cursor in tuple(channel.followers):
            if cursor.live and cursor.position >= channel.heard:
                cursor.done = True
                cursor.subscription.check_done()

    def all_behind(self) -> None:
        """The connection to Redis was lost: every subscription may have missed something."""
        for subscription in self.subscriptions():
            subscription.fall_behind()

    def subscriptions(self) -> dict[Subscription, None]:
        """All subscriptions that follow something."""
        return {cursor.subscription: None for channel in self.channels.values() for cursor in channel.followers}
