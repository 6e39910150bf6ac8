"""Grant: what a token allows, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


def _matches(patterns: frozenset[str], channel: str) -> bool:
    return channel in patterns or any(p.endswith("*") and channel.startswith(p[:-1]) for p in patterns)


@dataclass(frozen=True, slots=True)
class Grant:
    """Whom a connection speaks for, and the channels it may read and publish.

    Attributes:
        subject: the token's ``sub``
        subscribe, publish: channel names, each exact or ending in ``*``
        admin: may read metrics and revoke
        expires: seconds since 1970, infinity for never
    """

    subject: str
    subscribe: frozenset[str]
    publish: frozenset[str] = frozenset()
    admin: bool = False
    expires: float = float("inf")

    @classmethod
    def everything(cls) -> Self:
        """What ``GATEWAY_AUTH=none`` gives to everybody."""
        return cls(subject="", subscribe=frozenset("*"), publish=frozenset("*"), admin=True)

    def may_read(self, channel: str) -> bool:
        """Whether the channel may be followed."""
        return _matches(self.subscribe, channel)

    def may_publish(self, channel: str) -> bool:
        """Whether events may be published on the channel."""
        return _matches(self.publish, channel)
