"""Keys: the keys that tokens are checked with, each with the one algorithm that it is for.

The algorithm is chosen by the key and never by the token: otherwise a forged token could choose HS256 and be signed with the public key
as its secret (RFC 8725, section 3.1).
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
    """Finds the key for a token.

    Attributes:
        generation: changes when a key may have been withdrawn, so that tokens that were checked before must be checked again
    """

    generation: int

    async def find(self, token: str) -> Key:
        """The key that this token must be signed with.

        Raises:
            Unauthorized: if there is no such key.
            Unavailable: if the keys are not known now.
        """


class FixedKey:
    """The one configured key (see ``Keys``)."""

    generation = 0

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, token: str) -> Key:
        return self._key


def secret_key(secret: str) -> Key:
    """The HS256 key of a secret that is shared with the issuer of the tokens.

    Raises:
        ValueError: if the secret is too short, or is a public or private key.
    """
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"at least {MIN_SECRET_BYTES} bytes are expected")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        raise ValueError("a PEM or SSH key is not a secret: GATEWAY_JWT_PUBLIC_KEY takes a public one") from None
    return Key("HS256", secret.encode())


def public_key(key: object) -> Key:
    """A public key with its algorithm: RS256, ES256 or EdDSA.

    Raises:
        ValueError: if it is of another kind, or too short.
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
    """A public key in PEM format with its algorithm.

    Raises:
        ValueError: as ``public_key``, or if the text is not a public key in PEM format.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("a public key in PEM, -----BEGIN PUBLIC KEY-----, is expected") from error
    return public_key(key)
