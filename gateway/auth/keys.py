"""Keys: what tokens are checked with, and the one algorithm that goes with each.

The algorithm belongs to the key, never to the token: a token that could choose would take the public key for a secret
(RFC 8725, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

MIN_SECRET_BYTES: Final = 32  # RFC 7518, section 3.2: as long as the hash
MIN_RSA_BITS: Final = 2048  # RFC 7518, section 3.3


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its algorithm, as PyJWT names it."""

    algorithm: str
    key: Any

    def __repr__(self) -> str:
        return f"<Key {self.algorithm}>"


class Keys(Protocol):
    """Where the key for a token is found.

    Attributes:
        generation: another number once a key may have been taken away: what was checked before must be checked again
    """

    generation: int

    async def find(self, token: str) -> Key:
        """The key that this token must have been signed with.

        Raises:
            Unauthorized: if there is none.
            Unavailable: if that cannot be known now.
        """


class FixedKey:
    """The one key that was configured."""

    generation = 0

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, token: str) -> Key:
        return self._key


def secret_key(secret: str) -> Key:
    """A secret that is shared with whoever issues the tokens: HS256.

    Raises:
        ValueError: if it is too short, or a key that is no secret.
    """
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"at least {MIN_SECRET_BYTES} bytes are expected")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        raise ValueError("a PEM or SSH key is no secret: GATEWAY_JWT_PUBLIC_KEY takes a public one") from None
    return Key("HS256", secret.encode())


def public_key(key: object) -> Key:
    """The algorithm of a public key: RS256, ES256 or EdDSA.

    Raises:
        ValueError: if it is of no such kind, or too short.
    """
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits: at least {MIN_RSA_BITS} are expected")
        return Key("RS256", key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key("ES256", key)
    if isinstance(key, Ed25519PublicKey):
        return Key("EdDSA", key)
    raise ValueError("a public key of RSA, of the curve P-256, or of Ed25519 is expected")


def pem_key(pem: str) -> Key:
    """A public key in PEM.

    Raises:
        ValueError: as ``public_key``, or if it cannot be read.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("a public key in PEM, -----BEGIN PUBLIC KEY-----, is expected") from error
    return public_key(key)
