"""Keys: each is used with one algorithm, and weak ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.auth.keys import FixedKey, pem_key, secret_key


def pem(private: Any) -> str:
    text: str = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return text


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
async def test_a_public_key_has_its_algorithm(private: Any, algorithm: str) -> None:
    key = pem_key(pem(private))

    assert key.algorithm == algorithm
    assert await FixedKey(key).find("any token") is key


@pytest.mark.parametrize(
    "private", [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP384R1()), ed448.Ed448PrivateKey.generate()]
)
def test_other_keys_are_refused(private: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        pem_key(pem(private))


def test_a_private_key_or_a_secret_is_not_accepted_as_a_public_key() -> None:
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    for wrong in (private, "a secret of at least thirty-two bytes"):
        with pytest.raises(ValueError, match="-----BEGIN PUBLIC KEY-----, is expected"):
            pem_key(wrong)


def test_a_public_key_is_not_accepted_as_a_secret() -> None:
    with pytest.raises(ValueError, match="GATEWAY_JWT_PUBLIC_KEY"):
        secret_key(pem(ec.generate_private_key(ec.SECP256R1())))


def test_a_secret_has_at_least_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        secret_key("x" * 31)

    assert secret_key("ä" * 16).algorithm == "HS256"
    assert "xxxx" not in repr(secret_key("x" * 32))
