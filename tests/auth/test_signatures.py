"""Signatures: what is overridden of PyJWT decides as PyJWT does."""

from __future__ import annotations

import base64
import json
import string

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as some

from gateway.auth.keys import secret_key
from gateway.auth.signatures import SIGNATURES
from tests.support.tokens import SECRET, make_token, part

LETTERS = some.text(string.ascii_letters + string.digits + "-_+/= \n.", max_size=12).map(str.encode)


def verdict(signatures: jwt.PyJWS, segment: bytes) -> bytes | None:
    try:
        return signatures._decode_base64url_segment(segment, "payload")
    except jwt.DecodeError:
        return None


@given(
    some.one_of(LETTERS, some.binary(max_size=12), some.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")))
)
def test_a_segment_is_read_as_by_pyjwt(segment: bytes) -> None:
    found = verdict(SIGNATURES, segment)

    assert found == verdict(jwt.PyJWS(), segment)


def test_the_methods_that_are_overridden_are_ones_that_pyjwt_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(segment: bytes, name: str) -> bytes:
        raise AssertionError(f"{name} was read letter by letter")

    monkeypatch.setattr(jwt.PyJWS, "_decode_base64url_segment", staticmethod(unexpected))

    assert SIGNATURES.decode(make_token(), SECRET.encode(), algorithms=["HS256"])


def test_another_spelling_of_a_good_signature_is_refused() -> None:
    token = make_token()
    last = next(letter for letter in string.ascii_letters + string.digits if spells_the_same(token, letter))

    with pytest.raises(jwt.DecodeError):
        SIGNATURES.decode(token[:-1] + last, SECRET.encode(), algorithms=["HS256"])


def spells_the_same(token: str, letter: str) -> bool:
    """Whether the signature is the same bytes with this letter at its end, of which only four bits count."""
    signature = token.rpartition(".")[2]
    other = signature[:-1] + letter
    return other != signature and base64.urlsafe_b64decode(other + "=") == base64.urlsafe_b64decode(signature + "=")


def test_a_public_key_is_refused_as_a_secret_the_second_time_too() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    for _ in range(2):
        with pytest.raises(jwt.InvalidKeyError):
            SIGNATURES.decode(make_token(), public, algorithms=["HS256"])


def test_each_secret_is_checked_by_itself() -> None:
    token = make_token()

    SIGNATURES.decode(token, SECRET.encode(), algorithms=["HS256"])

    with pytest.raises(jwt.InvalidSignatureError):
        SIGNATURES.decode(token, b"x" * 32, algorithms=["HS256"])
    assert SIGNATURES.decode(token, SECRET.encode(), algorithms=["HS256"])


def test_a_known_header_does_not_make_another_token_valid() -> None:
    key = secret_key(SECRET)
    SIGNATURES.verify(make_token(), key)
    good, other = make_token("bob", jti="1"), make_token("eve", key="another secret of more than 32 bytes")
    header, payload, signature = good.split(".")
    strangers = [
        other,
        f"{header}.{other.split('.')[1]}.{signature}",
        f"{header}.{payload}.{signature}A",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{signature}",
        f"{part({'alg': 'none'})}.{payload}.{signature}",
        f"{part({'alg': 'none'})}.{payload}.",
    ]

    assert json.loads(SIGNATURES.verify(good, key))["sub"] == "bob"
    for token in strangers:
        with pytest.raises(jwt.PyJWTError):
            SIGNATURES.verify(token, key)


def test_the_header_of_a_second_token_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    key = secret_key(SECRET)
    SIGNATURES.verify(make_token(), key)

    def unexpected(*_: object, **__: object) -> bytes:
        raise AssertionError("its header was read again")

    monkeypatch.setattr(jwt.PyJWS, "decode", unexpected)

    assert json.loads(SIGNATURES.verify(make_token("bob"), key))["sub"] == "bob"


def test_a_header_with_further_parameters_is_not_remembered() -> None:
    key = secret_key(SECRET)
    token = make_token(header={"crit": ["exp"], "exp": 1})

    for _ in range(2):
        with pytest.raises(jwt.PyJWTError):
            SIGNATURES.verify(token, key)
