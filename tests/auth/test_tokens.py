"""Tokens: which are good, and what is said of those that are not."""

from __future__ import annotations

import math
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth import tokens as module
from gateway.auth.keys import FixedKey, Key, pem_key, secret_key
from gateway.auth.tokens import Tokens
from gateway.errors import Unauthorized
from tests.support.tokens import SECRET, make_token, part

RSA = rsa.generate_private_key(65537, 2048)
RSA_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def hs256(**options: Any) -> Tokens:
    return Tokens(FixedKey(secret_key(SECRET)), **options)


async def test_a_good_token_gives_its_grant() -> None:
    grant = await hs256().verify(make_token("ann", subscribe=["jobs:*"], jti="t1"))

    assert (grant.subject, grant.id, grant.admin) == ("ann", "t1", False)
    assert grant.may_read("jobs:1")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_public_keys_check_what_their_private_ones_signed(algorithm: str) -> None:
    private: Any = {"RS256": RSA, "ES256": ec.generate_private_key(ec.SECP256R1()), "EdDSA": ed25519.Ed25519PrivateKey.generate()}[
        algorithm
    ]
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    grant = await Tokens(FixedKey(pem_key(public))).verify(make_token(key=private, algorithm=algorithm))

    assert grant.subject == "ann"


def unsigned(payload: dict[str, Any], header: dict[str, Any]) -> str:
    return f"{part(header)}.{part(payload)}."


def forged_with_the_public_key() -> str:
    import hashlib
    import hmac

    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': 'ann', 'exp': time.time() + 60})}"
    return f"{signed}.{part(hmac.digest(RSA_PEM.encode(), signed.encode(), hashlib.sha256))}"


GOOD = {"sub": "ann", "exp": time.time() + 3600}

BAD = {
    "empty": ("", "the token is empty"),
    "garbage": ("garbage", "not a JSON Web Token"),
    "dots": ("...", "not a JSON Web Token"),
    "not ASCII": ("é.é.é", "not a JSON Web Token"),
    "NUL": ("a\0b", "not a JSON Web Token"),
    "alg none": (unsigned(GOOD, {"alg": "none"}), "algorithm"),
    "alg None": (unsigned(GOOD, {"alg": "NoNe"}), "algorithm"),
    "no alg": (unsigned(GOOD, {}), "algorithm"),
    "alg a number": (unsigned(GOOD, {"alg": 1}), "algorithm"),
    "alg a list": (unsigned(GOOD, {"alg": ["HS256"]}), "not a JSON Web Token|algorithm"),
    "another HMAC": (make_token(algorithm="HS512", key=SECRET * 2), "algorithm"),
    "another algorithm": (make_token(key=RSA, algorithm="RS256"), "algorithm"),
    "another secret": (make_token(key="x" * 32), "signature"),
    "foreign jku": (make_token(key="x" * 32, header={"jku": "http://127.0.0.1:1/keys", "kid": "mine"}), "signature"),
    "foreign x5u": (make_token(key="x" * 32, header={"x5u": "http://127.0.0.1:1/cert"}), "signature"),
    "kid a number": (make_token(key="x" * 32, header={"kid": "../../dev/null"}), "signature"),
    "signature cut": (make_token()[:-4], "signature|not a JSON Web Token"),
    "header nested deep": (f"{part(b'[' * 5000)}.{part(GOOD)}.x", "not a JSON Web Token"),
    "payload an array": (jwt.PyJWS().encode(b"[1]", SECRET), "not a JSON Web Token"),
    "payload not JSON": (jwt.PyJWS().encode(b"\xff", SECRET), "not a JSON Web Token"),
    "payload nested deep": (jwt.PyJWS().encode(b"[" * 5000, SECRET), "not a JSON Web Token"),
    "b64 false": (jwt.PyJWS().encode(b"{}", SECRET, headers={"b64": False}, is_payload_detached=True), "not a JSON Web Token"),
    "crit unknown": (make_token(header={"crit": ["x"], "x": 1}), "not a JSON Web Token"),
    "no exp": (make_token(exp=...), "claim exp: missing"),
    "exp null": (make_token(exp=None), "claim exp: missing"),
    "exp as text": (make_token(exp=str(int(time.time()) + 3_000)), "claim exp: "),
    "exp 1e308": (make_token(exp=1e308), "claim exp: "),
    "exp infinite": (make_token(exp=math.inf), "not a JSON Web Token"),
    "exp not a number": (make_token(exp=math.nan), "not a JSON Web Token"),
    "exp of a thousand digits": (make_token(exp=10**1000), "claim exp: |not a JSON Web Token"),
    "expired": (make_token(exp=time.time() - 1), "expired"),
    "expired long ago": (make_token(exp=0), "expired"),
    "no sub": (make_token(...), "claim sub: missing"),
    "sub a number": (make_token(7), "claim sub: "),
    "sub empty": (make_token(""), "claim sub: "),
    "nbf ahead": (make_token(nbf=time.time() + 3_000), "not valid yet"),
    "nbf infinite": (make_token(nbf=math.inf), "not a JSON Web Token"),
    "nbf as text": (make_token(nbf="0"), "claim nbf: "),
    "iat ahead": (make_token(iat=time.time() + 3_000), "not valid yet"),
    "iat as text": (make_token(iat="x"), "claim iat: "),
    "jti a number": (make_token(jti=5), "claim jti: "),
    "subscribe a text": (make_token(subscribe="jobs:*"), "claim subscribe: "),
    "admin a text": (make_token(admin="yes"), "claim admin: "),
    "64 kB": (make_token(pad="x" * 65_536), "at most 8192"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_token_is_refused_and_never_quoted(case: str) -> None:
    token, expected = BAD[case]

    with pytest.raises(Unauthorized, match=expected) as error:
        await hs256().verify(token)

    for piece in (piece for piece in token.split(".") if len(piece) > 4):
        assert piece not in error.value.detail
    assert "127.0.0.1" not in error.value.detail


async def test_a_public_key_is_never_taken_for_a_secret() -> None:
    with pytest.raises(Unauthorized, match="algorithm"):
        await Tokens(FixedKey(pem_key(RSA_PEM))).verify(forged_with_the_public_key())


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"aud": "gateway", "iss": "app"}, None),
        ({"aud": ["other", "gateway"], "iss": "app"}, None),
        ({"aud": "other", "iss": "app"}, "claim aud: "),
        ({"aud": {"gateway": 1}, "iss": "app"}, "claim aud: "),
        ({"iss": "app"}, "claim aud: missing"),
        ({"aud": "gateway", "iss": "app.evil"}, "claim iss: "),
        ({"aud": "gateway", "iss": ...}, "claim iss: missing"),
    ],
)
async def test_audience_and_issuer_are_checked_if_configured(claims: dict[str, Any], expected: str | None) -> None:
    tokens = hs256(audience="gateway", issuer="app")

    if expected is None:
        assert (await tokens.verify(make_token(**claims))).subject == "ann"
    else:
        with pytest.raises(Unauthorized, match=expected):
            await tokens.verify(make_token(**claims))


async def test_a_claim_that_is_null_counts_as_absent() -> None:
    assert (await hs256().verify(make_token(nbf=None, iat=None, jti=None))).issued is None


async def test_an_audience_that_is_not_configured_is_not_checked() -> None:
    assert (await hs256().verify(make_token(aud="somebody", iss="else"))).subject == "ann"


async def test_a_remembered_token_expires_all_the_same() -> None:
    tokens = hs256()
    token = make_token(exp=time.time() + 0.3)
    first = await tokens.verify(token)

    assert await tokens.verify(token) is first
    while time.time() <= first.expires:
        time.sleep(0.01)
    with pytest.raises(Unauthorized, match="expired"):
        await tokens.verify(token)


async def test_remembered_tokens_are_bounded_and_the_longest_unused_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    tokens = hs256()
    a, b, c = (make_token(name) for name in "abc")
    kept = await tokens.verify(a)
    gone = await tokens.verify(b)
    await tokens.verify(a)
    await tokens.verify(c)

    assert await tokens.verify(a) is kept
    assert await tokens.verify(b) is not gone
    assert len(tokens._known) == 2


async def test_what_was_remembered_is_forgotten_when_keys_change() -> None:
    keys = FixedKey(secret_key(SECRET))
    tokens = Tokens(keys)
    token = make_token()
    await tokens.verify(token)

    keys.generation = 1
    keys._key = Key("HS256", b"another secret of thirty-two bytes")
    with pytest.raises(Unauthorized, match="signature"):
        await tokens.verify(token)
