"""Revocations: the subjects and tokens that were revoked, as far as this process has heard.

They are kept for 30 days: to keep out a token that is valid for longer, revoke it again or replace the key it was signed with.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.grant import Grant

KEEP_SECONDS: Final = 30 * 86_400
MAX_REVOCATIONS: Final = 100_000


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The revocation of a subject's tokens (``sub``) or of one token (``jti``).

    Attributes:
        at: seconds since 1970; the subject's tokens that were issued up to then are refused
    """

    sub: str | None = None
    jti: str | None = None
    at: float = 0.0


class Revocations:
    """The revocations of the last 30 days."""

    def __init__(self) -> None:
        self._subjects: dict[str, float] = {}
        self._ids: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._subjects) + len(self._ids)

    def add(self, revocation: Revocation) -> None:
        """Remember a revocation; one that is known already changes nothing."""
        for kept, name in ((self._subjects, revocation.sub), (self._ids, revocation.jti)):
            if name is not None:
                kept[name] = max(kept.get(name, 0.0), revocation.at)

    def forget(self, before: float) -> None:
        """Drop the revocations made up to this time (seconds since 1970)."""
        self._subjects = {name: at for name, at in self._subjects.items() if at > before}
        self._ids = {name: at for name, at in self._ids.items() if at > before}

    def covers(self, grant: Grant) -> bool:
        """Whether the grant was revoked. A grant without a time of issue counts as older than any revocation of its subject."""
        at = self._subjects.get(grant.subject)
        if at is not None and (grant.issued is None or grant.issued <= at):
            return True
        return grant.id in self._ids
