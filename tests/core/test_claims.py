"""Claims: fast decoding and checking claim by claim give the same result."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import UNSET

from gateway.core import claims as module
from gateway.core.claims import Claims, check_claims, parse_claims
from gateway.errors import Unauthorized

NAMES = ["sub", "exp", "nbf", "iat", "jti", "admin", "subscribe", "publish", "aud", "iss", "other"]
TEXTS = some.text("ab:*\n\u00e9\u200b", max_size=4)
VALUES = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.sampled_from([0, 1, -0.0, 2_000_000_000, 2_000_000_000.5, 253_402_300_799, 253_402_300_800, 2**63, 2**64, 10**30, 1e308]),
    some.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    some.sampled_from(["ann", "x" * 255, "x" * 256, "é" * 255, "a\nb"]),
    some.lists(some.one_of(TEXTS, some.none(), some.integers()), max_size=3),
    some.dictionaries(TEXTS, some.none(), max_size=1),
)


def found(read: Any, claims: Any) -> object:
    try:
        return read(claims)
    except Unauthorized as error:
        return error.detail


@given(
    some.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES)),
    some.fixed_dictionaries({}, optional={"sub": some.just("ann"), "exp": some.just(2_000_000_000)}),
)
def test_a_payload_is_read_as_if_each_claim_were_checked(claims: dict[str, Any], good: dict[str, Any]) -> None:
    payload = json.dumps(claims | good).encode()

    assert found(parse_claims, payload) == found(check_claims, msgspec.json.decode(payload))


def test_the_last_of_two_claims_of_one_name_counts() -> None:
    payload = b'{"sub":"eve","sub":"ann","exp":1,"exp":2,"subscribe":["*"],"subscribe":[],"admin":true,"admin":false}'

    assert parse_claims(payload) == Claims(sub="ann", exp=2, subscribe=())


def test_an_absent_claim_is_none() -> None:
    claims = parse_claims(b'{"sub":"ann","exp":2000000000,"nbf":null,"jti":null,"aud":null,"name":{"given":["Ann"]}}')

    assert (claims.nbf, claims.iat, claims.jti, claims.admin, claims.subscribe, claims.aud) == (None, None, None, False, UNSET, None)


def test_valid_claims_are_not_checked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_claims", None)

    assert parse_claims(b'{"sub":"ann","exp":2000000000,"subscribe":["jobs:*"]}').subscribe == ("jobs:*",)


@pytest.mark.parametrize("payload", [b"", b"[1]", b"7", b'{"sub":"ann"', b"\xff", b'{"sub":"\xff","exp":1}', b'{"a":' * 5_000])
def test_a_payload_that_is_not_an_object_is_refused(payload: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_claims(payload)
