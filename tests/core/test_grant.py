"""Grants: what claims allow, and which claim is wrong."""

from __future__ import annotations

import math

import pytest

from gateway.core.claims import check_claims
from gateway.core.grant import Grant, Patterns
from gateway.errors import Unauthorized


def grant(**claims: object) -> Grant:
    return Grant.from_claims(check_claims({"sub": "ann", "exp": 2_000_000_000} | claims))


def test_without_subscribe_a_subject_reads_its_own_channels() -> None:
    own = grant()

    assert [own.may_read(name) for name in ("user:ann", "user:ann:jobs", "user:anna", "user:bob", "jobs:1")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_subject_that_ends_in_a_star_is_not_a_wildcard() -> None:
    assert not grant(sub="*").may_read("user:bob")
    assert not grant(sub="b*").may_read("user:bob")


def test_a_channel_is_allowed_by_its_name_or_by_its_beginning() -> None:
    some = grant(subscribe=["jobs:42", "reports:*"])

    assert [some.may_read(name) for name in ("jobs:42", "jobs:421", "reports:", "reports:7", "user:ann")] == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_a_star_alone_allows_every_channel_and_an_empty_list_none() -> None:
    assert grant(subscribe=["*"]).may_read("anything")
    assert not grant(subscribe=[]).may_read("user:ann")


def test_without_publish_nothing_may_be_published() -> None:
    assert not grant(subscribe=["*"]).may_publish("jobs:1")
    assert grant(publish=["jobs:*"]).may_publish("jobs:1")
    assert not grant(publish=["jobs:*"]).may_read("jobs:1")


def test_admin_must_be_true() -> None:
    assert not grant().admin
    assert grant(admin=True).admin


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("sub", None),
        ("sub", ""),
        ("sub", 7),
        ("sub", "a\nb"),
        ("sub", "\ud800"),
        ("sub", "x" * 256),
        ("exp", None),
        ("exp", "2000000000"),
        ("exp", 1e308),
        ("exp", math.inf),
        ("exp", math.nan),
        ("exp", -1),
        ("exp", True),
        ("exp", [1]),
        ("iat", "now"),
        ("nbf", "1"),
        ("jti", 7),
        ("jti", "x" * 256),
        ("admin", 1),
        ("admin", "true"),
        ("subscribe", "jobs:*"),
        ("subscribe", None),
        ("subscribe", {"jobs:1": True}),
        ("subscribe", ["jobs:1", 2]),
        ("subscribe", ["a*b"]),
        ("subscribe", ["**"]),
        ("subscribe", [""]),
        ("subscribe", ["jobs 1"]),
        ("subscribe", ["x" * 129]),
        ("publish", ["[a-z]*"]),
        ("publish", 1),
    ],
)
def test_a_claim_of_the_wrong_type_is_named(claim: str, value: object) -> None:
    with pytest.raises(Unauthorized, match=f"^claim {claim}: "):
        grant(**{claim: value})


def test_patterns_are_read_as_exact_or_beginning() -> None:
    assert Patterns.parse(["a", "b:*", "*"]) == Patterns(frozenset({"a"}), ("", "b:"))
