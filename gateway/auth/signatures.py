"""Signatures: PyJWT's verification of tokens (RFC 7515), without what it does again for each token and need do only once.

- The secret is checked and prepared once, and each HMAC starts from a copy of that.
- A base64 segment that encodes back to itself is valid, so PyJWT need not check it character by character in Python.
- All tokens of an issuer have the same header. Once PyJWT has accepted one, the next token with that header needs only its signature
  compared.

Everything else goes PyJWT's own way. These three were most of a token's cost (``loadtest/experiments/authorised-handshake``).
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from functools import lru_cache
from hmac import compare_digest
from typing import Final

import jwt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from jwt.algorithms import HMACAlgorithm

from gateway.auth.keys import Key

MAX_HEADERS: Final = 16  # one issuer has one or two

_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")
_FROM_BASE64: Final = bytes.maketrans(b"+/", b"-_")


class _Hmac(HMACAlgorithm):
    """HS256 with a prepared secret.

    It uses cryptography's HMAC, which is written in C: copying one of the standard library runs four Python functions, and takes twice
    the time.
    """

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)
        self._prepare = lru_cache(maxsize=1)(super().prepare_key)
        self._begun = lru_cache(maxsize=1)(lambda key: HMAC(key, SHA256()))

    def prepare_key(self, key: str | bytes) -> bytes:
        return self._prepare(key)

    def check_key_length(self, key: bytes) -> None:
        """PyJWT would warn of a short secret here, but ``keys.secret_key`` has refused those."""

    def encoded_signature(self, signed: bytes, key: bytes) -> bytes:
        """The signature of a token's first two parts, encoded as in its third part."""
        return b2a_base64(self.sign(signed, key), newline=False).rstrip(b"=").translate(_FROM_BASE64)

    def sign(self, msg: bytes, key: bytes) -> bytes:
        mac = self._begun(key).copy()
        mac.update(msg)
        return mac.finalize()


class _Signatures(jwt.PyJWS):
    """PyJWT's checks, with one algorithm for each kind of key."""

    def __init__(self) -> None:
        super().__init__(["RS256", "ES256", "EdDSA"])
        self._hmac = _Hmac()
        self.register_algorithm("HS256", self._hmac)
        self._headers: set[bytes] = set()  # the first parts of HS256 tokens that PyJWT has verified

    def verify(self, token: str, key: Key) -> bytes:
        """The payload of a token that was signed with this key.

        Raises:
            jwt.PyJWTError, ValueError, TypeError: if it was not.
        """
        signed, _, signature = token.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        if (
            header in self._headers
            and key.algorithm == "HS256"
            and compare_digest(self._hmac.encoded_signature(signed, key.key), signature)
        ):
            return self._decode_base64url_segment(payload, "payload")
        verified: bytes = self.decode(token, key.key, algorithms=[key.algorithm])
        if key.algorithm == "HS256" and len(self._headers) < MAX_HEADERS:
            self._headers.add(header)
        return verified

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        # This overrides a private method of PyJWT. If PyJWT renames it, tokens cost more again, and nothing else changes.
        try:
            decoded = a2b_base64(segment.translate(_TO_BASE64) + b"==")
        except ValueError:
            decoded = b""
        if decoded and b2a_base64(decoded, newline=False).rstrip(b"=").translate(_FROM_BASE64) == segment:
            return decoded  # it has no foreign characters, and is the only encoding of these bytes
        return jwt.PyJWS._decode_base64url_segment(segment, name)  # noqa: SLF001


SIGNATURES: Final = _Signatures()
