"""Revocations: which grants no longer hold, as this process has heard so far.

They are kept for 30 days: a token that is good for longer has to be revoked again, or its key replaced.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.grant import Grant

KEEP_SECONDS: Final = 30 * 86_400
MOST: Final = 100_000


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One subject, or one token by its id.

    Attributes:
        at: seconds since 1970; a subject's tokens issued until then are refused
    """

    sub: str | None = None
    jti: str | None = None
    at: float = 0.0


class Revocations:
    """Those of the last 30 days."""

    def __init__(self) -> None:
        self.newest = 0.0
        self._subjects: dict[str, float] = {}
        self._ids: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._subjects) + len(self._ids)

    def add(self, revocation: Revocation) -> None:
        """Take note of one."""
        self.newest = max(self.newest, revocation.at)
        for kept, name in ((self._subjects, revocation.sub), (self._ids, revocation.jti)):
            if name is not None:
                kept[name] = max(kept.get(name, 0.0), revocation.at)

    def forget(self, before: float) -> None:
        """Drop those that are older."""
        self._subjects = {name: at for name, at in self._subjects.items() if at > before}
        self._ids = {name: at for name, at in self._ids.items() if at > before}

    def cover(self, grant: Grant) -> bool:
        """Whether the grant was revoked. One that does not say when it was issued may be older than any revocation."""
        at = self._subjects.get(grant.subject)
        if at is not None and (grant.issued is None or grant.issued <= at):
            return True
        return grant.id is not None and grant.id in self._ids
