"""Grant: what a token allows, and until when. An error never quotes the token itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Self

import msgspec
from msgspec import UNSET

from gateway.core.claims import Claims
from gateway.core.event import CHANNEL, show
from gateway.errors import Unauthorized

PATTERN_RULE: Final = "the name of a channel, or the beginning of one and then *, is expected"
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127})?\*")
# Lists of patterns are parsed once and remembered, because the tokens of one application mostly differ only in their subject.
MAX_REMEMBERED: Final = 256
MAX_REMEMBERED_PATTERNS: Final = 16  # in one list; a longer list (about 3 KiB) is parsed again each time


class Patterns(msgspec.Struct, frozen=True):  # a Struct, because msgspec creates it in C and every token needs some
    """A set of channels, given by their exact names and by prefixes."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Parse channel names; a text that ends in ``*`` is a prefix.

        Raises:
            ValueError: if a text is neither a channel's name nor a prefix; the error names it.
        """
        exact, prefixes = set(), set()
        for text in texts:
            if _PREFIX.fullmatch(text):
                prefixes.add(text[:-1])
            elif CHANNEL.fullmatch(text):
                exact.add(text)
            else:
                raise ValueError(f"{show(text, 40)}: {PATTERN_RULE}")
        return cls(frozenset(exact), tuple(sorted(prefixes)))

    def match(self, channel: str) -> bool:
        """Whether the channel belongs to this set."""
        return channel in self.exact or channel.startswith(self.prefixes)


NONE: Final = Patterns()
_remembered: Final = lru_cache(MAX_REMEMBERED)(Patterns.parse)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a connection speaks for, and which channels it may read and publish on.

    Attributes:
        subject: the token's ``sub``
        subscribe, publish: the channels it may follow, and those it may publish on
        admin: whether it may read the metrics and revoke tokens
        expires: seconds since 1970; infinity if never
        issued: seconds since 1970; ``None`` if the token does not say
        id: the token's ``jti``; ``None`` if it has none
    """

    subject: str
    subscribe: Patterns
    publish: Patterns = NONE
    admin: bool = False
    expires: float = math.inf
    issued: float | None = None
    id: str | None = None

    @classmethod
    def everything(cls) -> Self:
        """The grant that everybody has under ``GATEWAY_AUTH=none``."""
        every = Patterns(prefixes=("",))
        return cls(subject="", subscribe=every, publish=every, admin=True)

    @classmethod
    def from_claims(cls, claims: Claims) -> Self:
        """What these claims allow (docs/security.md).

        Raises:
            Unauthorized: if ``subscribe`` or ``publish`` holds a text that is not a pattern; the error names the claim.
        """
        return cls(
            subject=claims.sub,
            subscribe=_own(claims.sub) if claims.subscribe is UNSET else _patterns(claims.subscribe, "subscribe"),
            publish=NONE if claims.publish is UNSET else _patterns(claims.publish, "publish"),
            admin=claims.admin,
            expires=claims.exp,
            issued=claims.iat,
            id=claims.jti,
        )

    def may_read(self, channel: str) -> bool:
        """Whether the channel may be followed."""
        return self.subscribe.match(channel)

    def may_publish(self, channel: str) -> bool:
        """Whether events may be published on the channel."""
        return self.publish.match(channel)


def _own(subject: str) -> Patterns:
    """The channels of the subject itself, which a token without ``subscribe`` may follow."""
    # Not parsed as patterns: a subject that ends in * must not become a wildcard.
    return Patterns(frozenset((f"user:{subject}",)), (f"user:{subject}:",))


def _patterns(texts: tuple[str, ...], claim: str) -> Patterns:
    try:
        return _remembered(texts) if len(texts) <= MAX_REMEMBERED_PATTERNS else Patterns.parse(texts)
    except ValueError as error:
        raise Unauthorized(f"claim {claim}: {error}") from None
