"""A finding knows its remedy."""

from __future__ import annotations

from gateway.doctor.finding import Finding
from gateway.doctor.remedies import REMEDIES


def test_a_finding_brings_its_remedy_if_it_has_one() -> None:
    assert Finding("wrong", "SSE is held back", "buffered").remedy == REMEDIES["buffered"]
    assert Finding("ok", "SSE opens").remedy == {}
