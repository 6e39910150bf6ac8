"""Signatures: PyJWT's proof of a token (RFC 7515), without what PyJWT does again for each token and need do only once.

The secret is looked at once and not for each token; a segment that comes out of base64 and goes back into it unchanged is not also
looked at letter by letter in Python, with PyJWT's own step for all others; and the HMAC goes on from the secret. That was half of
what a token cost (``loadtest/experiments/authorised-handshake``).
"""

from __future__ import annotations

import hmac
from binascii import a2b_base64, b2a_base64
from functools import lru_cache, partial
from typing import Final

import jwt
from jwt.algorithms import HMACAlgorithm

_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")
_FROM_BASE64: Final = bytes.maketrans(b"+/", b"-_")


class _Hmac(HMACAlgorithm):
    """HMAC that remembers which secret it has looked at last: whether that is a public key, above all."""

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)
        self._prepare = lru_cache(maxsize=1)(super().prepare_key)
        self._begun = lru_cache(maxsize=1)(partial(hmac.new, digestmod="sha256"))

    def prepare_key(self, key: str | bytes) -> bytes:
        return self._prepare(key)

    def check_key_length(self, key: bytes) -> None:
        """Nothing to warn of: ``keys.secret_key`` has refused a short one."""

    def sign(self, msg: bytes, key: bytes) -> bytes:
        mac = self._begun(key).copy()
        mac.update(msg)
        return mac.digest()


class _Signatures(jwt.PyJWS):
    """PyJWT's checks, with one algorithm for each kind of key."""

    def __init__(self) -> None:
        super().__init__(["RS256", "ES256", "EdDSA"])
        self.register_algorithm("HS256", _Hmac())

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        # PyJWT's name for it, and not a public one: should it go, tokens cost more again and nothing else changes.
        try:
            decoded = a2b_base64(segment.translate(_TO_BASE64) + b"==")
        except ValueError:
            decoded = b""
        if decoded and b2a_base64(decoded, newline=False).rstrip(b"=").translate(_FROM_BASE64) == segment:
            return decoded  # what comes back unchanged has no other letters, and no other spelling
        return jwt.PyJWS._decode_base64url_segment(segment, name)  # noqa: SLF001


SIGNATURES: Final = _Signatures()
