"""JWKS: which keys of a key set are used, and when the set is fetched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth import jwks as module
from gateway.auth.jwks import Jwks, parse_key_set
from gateway.auth.tokens import Tokens
from gateway.errors import Unauthorized, Unavailable
from tests.support.answering import Answering, answering
from tests.support.tokens import make_token
from tests.support.waiting import until

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def entry(private: Any, kid: str | None = None, **fields: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm, ed25519.Ed25519PrivateKey: OKPAlgorithm}
    make: Any = next(algorithm for kind, algorithm in kinds.items() if isinstance(private, kind))
    found: dict[str, Any] = make.to_jwk(private.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return found | ({} if kid is None else {"kid": kid}) | fields


def key_set(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def test_each_public_key_is_found_by_algorithm_and_kid() -> None:
    known = parse_key_set(key_set(entry(RSA, "a"), entry(EC, "b"), entry(ED, "c"), entry(ED, "d")))

    assert set(known) == {("RS256", "a"), ("RS256", None), ("ES256", "b"), ("ES256", None), ("EdDSA", "c"), ("EdDSA", "d")}


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
        entry(RSA, "x", use="enc"),
        entry(RSA, "x", alg="HS256"),
        entry(RSA, "x", alg="RS512"),
        entry(RSA, "x", alg="none"),
        entry(rsa.generate_private_key(65537, 1024), "x"),
        entry(ec.generate_private_key(ec.SECP384R1()), "x"),
        entry(EC, "x", crv="P-999"),
        entry(EC) | {"kid": 5},
        {"kty": "RSA", "kid": "x", "n": "AQ", "e": 5},
        {"kty": "RSA", "kid": "x"},
        {"kid": "x"},
        {},
    ],
)
def test_other_keys_than_public_signature_keys_are_left_out(other: dict[str, Any]) -> None:
    assert set(parse_key_set(key_set(entry(ED, "good"), other))) == {("EdDSA", "good"), ("EdDSA", None)}
    with pytest.raises(ValueError, match="no key"):
        parse_key_set(key_set(other))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[1]}', b"\xff", b'{"keys":[' + b"[" * 5000])
def test_anything_but_a_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_key_set(body)


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as server:
        server.answer = (200, key_set(entry(EC, "old")))
        yield server


@pytest.fixture
async def jwks(server: Answering, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jwks]:
    monkeypatch.setattr(module, "ASK_SECONDS", 0.3)
    jwks = Jwks(server.url)
    task = asyncio.ensure_future(jwks.run())
    yield jwks
    task.cancel()
    await asyncio.wait([task])


def token(private: Any = EC, kid: str = "old", algorithm: str = "ES256", **header: Any) -> str:
    return make_token(key=private, algorithm=algorithm, header={"kid": kid} | header)


async def test_the_first_caller_waits_for_the_keys(jwks: Jwks) -> None:
    assert (await Tokens(jwks).verify(token())).subject == "ann"


async def test_a_new_key_is_fetched_when_a_token_names_it(jwks: Jwks, server: Answering) -> None:
    tokens = Tokens(jwks)
    await tokens.verify(token())
    server.answer = (200, key_set(entry(ED, "new")))
    await asyncio.sleep(0.3)  # the time that lies between two fetches

    assert (await tokens.verify(token(ED, "new", "EdDSA"))).subject == "ann"
    with pytest.raises(Unauthorized):
        await tokens.verify(token())  # remembered, but its key is gone


async def test_tokens_that_name_unknown_keys_cause_few_fetches(jwks: Jwks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_SECONDS", 60)
    await jwks.find(token())

    results = await asyncio.gather(*(jwks.find(token(kid=f"k{i}")) for i in range(200)), return_exceptions=True)

    assert all(isinstance(result, Unauthorized) for result in results)
    assert jwks.fetches == 1


async def test_an_address_in_the_token_is_ignored(jwks: Jwks, server: Answering) -> None:
    with answering() as evil:
        evil.answer = (200, key_set(entry(ED, "evil")))
        for name in ("jku", "x5u"):
            with pytest.raises(Unauthorized):
                await Tokens(jwks).verify(token(ED, "evil", "EdDSA", **{name: evil.url}))

        assert evil.requests == []


async def test_the_algorithm_goes_with_the_key(jwks: Jwks, server: Answering) -> None:
    await jwks.find(token())

    for bad in (make_token(header={"kid": "old"}), jwt.encode({"sub": "ann"}, "", algorithm="none", headers={"kid": "old"})):
        with pytest.raises(Unauthorized):
            await jwks.find(bad)
    for garbage in ("", "a.b.c", "[[["):
        with pytest.raises(Unauthorized, match="not a JSON Web Token"):
            await jwks.find(garbage)


async def test_without_keys_the_answer_is_503(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    server.answer = (500, b"")
    jwks = Jwks(server.url)
    task = asyncio.ensure_future(jwks.run())

    with pytest.raises(Unavailable, match="GATEWAY_JWKS_URL"):
        await jwks.find(token())
    task.cancel()
    await asyncio.wait([task])


async def test_an_address_that_fails_is_not_asked_again_at_once(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", (30, 60))  # seconds; the first of the usual ones may be over on a busy machine before this looks
    server.answer = (500, b"")
    jwks = Jwks(server.url)
    task = asyncio.ensure_future(jwks.run())
    with pytest.raises(Unavailable):
        await jwks.find(token())
    asking = asyncio.ensure_future(jwks.find(token()))
    await asyncio.sleep(0.5)
    fetches = jwks.fetches
    for running in (asking, task):
        running.cancel()
        await asyncio.wait([running])

    assert fetches == 1


async def test_while_the_address_does_not_answer_the_last_keys_hold_for_a_day(
    jwks: Jwks, server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF", (0.05, 0.1))
    tokens, remembered = Tokens(jwks), token()
    await tokens.verify(remembered)
    server.answer = (200, b"<html>sorry</html>")
    await asyncio.sleep(0.3)
    with pytest.raises(Unauthorized):
        await jwks.find(token(kid="unknown"))

    assert (await tokens.verify(remembered)).subject == (await tokens.verify(token())).subject

    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    jwks._good_until = 0
    fetches = jwks.fetches
    await until(lambda: jwks.fetches >= fetches + 2)
    for late in (remembered, token()):
        with pytest.raises(Unavailable):
            await tokens.verify(late)
