"""Finding: what a check of a deployment has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.doctor.remedies import REMEDIES, Remedy

Kind = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        kind: ``ok``, ``note`` for something to consider, or ``wrong``
        text: in one line
        name: of its remedy; empty if there is none
    """

    kind: Kind
    text: str
    name: str = ""

    @property
    def remedy(self) -> Remedy:
        """Which line to change in which proxy; empty if there is no remedy."""
        return REMEDIES.get(self.name, {})
