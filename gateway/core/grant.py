"""Grant: what a token allows, and until when. The token itself is never in an error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Self

import msgspec
from msgspec import UNSET

from gateway.core.claims import Claims, check_claims
from gateway.core.event import CHANNEL, show
from gateway.errors import Unauthorized

PATTERN_RULE: Final = "the name of a channel, or the beginning of one and then *, is expected"
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127})?\*")
REMEMBERED: Final = 256  # lists of patterns: the tokens of an application mostly differ in their subject only
MOST_REMEMBERED: Final = 16  # patterns in one of them, some 3 KiB


class Patterns(msgspec.Struct, frozen=True):  # a structure: made in C, each token makes some
    """Names of channels, each exact or the beginning of many."""

    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def read(cls, texts: Iterable[str]) -> Self:
        """Take each text that ends in ``*`` for a beginning.

        Raises:
            ValueError: naming the text that is neither a channel nor the beginning of one.
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
        """Whether the channel is one of these."""
        return channel in self.exact or channel.startswith(self.prefixes)


NONE: Final = Patterns()
_remembered: Final = lru_cache(REMEMBERED)(Patterns.read)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a connection speaks for, and the channels it may read and publish.

    Attributes:
        subject: the token's ``sub``
        subscribe, publish: the channels
        admin: may read metrics and revoke
        expires: seconds since 1970, infinity for never
        issued: seconds since 1970, ``None`` where the token does not say
        id: the token's ``jti``, ``None`` where it has none
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
        """What ``GATEWAY_AUTH=none`` gives to everybody."""
        every = Patterns(prefixes=("",))
        return cls(subject="", subscribe=every, publish=every, admin=True)

    @classmethod
    def of(cls, claims: Claims) -> Self:
        """What these claims allow (docs/security.md).

        Raises:
            Unauthorized: naming the claim with a text that is no pattern.
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

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> Self:
        """What these claims allow, of whatever shape they are.

        Raises:
            Unauthorized: naming the claim that is missing or of a wrong shape.
        """
        return cls.of(check_claims(claims))

    def may_read(self, channel: str) -> bool:
        """Whether the channel may be followed."""
        return self.subscribe.match(channel)

    def may_publish(self, channel: str) -> bool:
        """Whether events may be published on the channel."""
        return self.publish.match(channel)


def _own(subject: str) -> Patterns:
    # Not read as patterns: a subject that ends in * is no wildcard.
    return Patterns(frozenset((f"user:{subject}",)), (f"user:{subject}:",))


def _patterns(texts: tuple[str, ...], claim: str) -> Patterns:
    try:
        return _remembered(texts) if len(texts) <= MOST_REMEMBERED else Patterns.read(texts)
    except ValueError as error:
        raise Unauthorized(f"claim {claim}: {error}") from None
