"""Grant: what a token allows, and until when.

A grant is made from a token's claims once its signature is proved, so every shape is checked here and a wrong one is named
by its claim. The token itself is never in an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from gateway.core.event import CHANNEL, show
from gateway.errors import Unauthorized

MAX_TEXT: Final = 255  # characters of sub and jti
MAX_TIME: Final = 253_402_300_799  # the end of the year 9999: a later exp is a mistake

PATTERN_RULE: Final = "the name of a channel, or the beginning of one and then *, is expected"
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127})?\*")


@dataclass(frozen=True, slots=True)
class Patterns:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
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
    publish: Patterns = Patterns()
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
    def from_claims(cls, claims: Mapping[str, Any]) -> Self:
        """What these claims allow (contract, section 5).

        Raises:
            Unauthorized: naming the claim that is missing or of a wrong shape.
        """
        subject = _text(claims, "sub")
        expires = _time(claims, "exp")
        if subject is None or expires is None:
            raise Unauthorized(f"claim {'sub' if subject is None else 'exp'}: missing")
        _time(claims, "nbf")
        admin = claims.get("admin", False)
        if not isinstance(admin, bool):
            raise Unauthorized("claim admin: true or false is expected")
        return cls(
            subject=subject,
            subscribe=_own(subject) if "subscribe" not in claims else _patterns(claims, "subscribe"),
            publish=Patterns() if "publish" not in claims else _patterns(claims, "publish"),
            admin=admin,
            expires=expires,
            issued=_time(claims, "iat"),
            id=_text(claims, "jti"),
        )

    def may_read(self, channel: str) -> bool:
        """Whether the channel may be followed."""
        return self.subscribe.match(channel)

    def may_publish(self, channel: str) -> bool:
        """Whether events may be published on the channel."""
        return self.publish.match(channel)


def is_name(value: object) -> bool:
    """Whether this can be a subject or a token's id: it is printed, compared and kept in Redis."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _text(claims: Mapping[str, Any], claim: str) -> str | None:
    value = claims.get(claim)
    if value is not None and not is_name(value):
        raise Unauthorized(f"claim {claim}: a printable text of 1 to {MAX_TEXT} characters is expected")
    return value


def _time(claims: Mapping[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME:
        raise Unauthorized(f"claim {claim}: a number of seconds since 1970, at most {MAX_TIME}, is expected")
    return float(value)


def _own(subject: str) -> Patterns:
    # Not read as patterns: a subject that ends in * is no wildcard.
    return Patterns(frozenset((f"user:{subject}",)), (f"user:{subject}:",))


def _patterns(claims: Mapping[str, Any], claim: str) -> Patterns:
    value = claims[claim]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Unauthorized(f"claim {claim}: an array of channels, each exact or ending in *, is expected")
    try:
        return Patterns.read(value)
    except ValueError as error:
        raise Unauthorized(f"claim {claim}: {error}") from None
