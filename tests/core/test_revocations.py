"""Revocations: which grants they cover."""

from __future__ import annotations

from typing import Any

from gateway.core.grant import Grant, Patterns
from gateway.core.revocations import Revocation, Revocations


def grant(**fields: Any) -> Grant:
    return Grant(subject="ann", subscribe=Patterns(), **fields)


def test_a_subject_is_refused_with_what_was_issued_until_then() -> None:
    revocations = Revocations()
    revocations.add(Revocation(sub="ann", at=100.0))

    assert revocations.covers(grant(issued=99.0))
    assert revocations.covers(grant(issued=100.0))
    assert not revocations.covers(grant(issued=100.5))
    assert not revocations.covers(Grant(subject="bob", subscribe=Patterns(), issued=99.0))


def test_a_token_that_does_not_say_when_it_was_issued_is_refused() -> None:
    revocations = Revocations()
    revocations.add(Revocation(sub="ann", at=100.0))

    assert revocations.covers(grant())


def test_one_token_is_refused_by_its_id() -> None:
    revocations = Revocations()
    revocations.add(Revocation(jti="t1", at=100.0))

    assert revocations.covers(grant(id="t1", issued=200.0))
    assert not revocations.covers(grant(id="t2", issued=50.0))
    assert not revocations.covers(grant(issued=50.0))


def test_an_older_revocation_does_not_undo_a_newer_one() -> None:
    revocations = Revocations()
    revocations.add(Revocation(sub="ann", at=100.0))
    revocations.add(Revocation(sub="ann", at=50.0))

    assert revocations.covers(grant(issued=80.0))


def test_old_ones_are_forgotten() -> None:
    revocations = Revocations()
    for at in (100.0, 150.0, 200.0):
        revocations.add(Revocation(sub=f"s{at}", at=at))
        revocations.add(Revocation(jti=f"t{at}", at=at))

    revocations.forget(before=150.0)

    assert len(revocations) == 2
