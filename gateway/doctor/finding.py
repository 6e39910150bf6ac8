"""Finding: what one look at a deployment has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.doctor.remedies import REMEDIES, Remedy

Kind = Literal["well", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found, and the name of its remedy."""

    kind: Kind
    text: str
    name: str = ""

    @property
    def remedy(self) -> Remedy:
        """Where to change which line; empty if there is none."""
        return REMEDIES.get(self.name, {})
