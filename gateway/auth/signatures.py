"""Signatures: PyJWT's proof of a token (RFC 7515), without what PyJWT does again for each token and need do only once.

Two steps are taken over, and each of them falls back on PyJWT's own: the secret is looked at once and not for each token, and
a segment that comes out of base64 and goes back into it unchanged is not also looked at letter by letter in Python. That was
half of what a token cost (``loadtest/experiments/authorised-handshake``).
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Final

import jwt
from jwt.algorithms import HMACAlgorithm


class _Hmac(HMACAlgorithm):
    """HMAC that remembers which secret it has looked at last: whether that is a public key, above all."""

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)
        self._prepare = lru_cache(maxsize=1)(super().prepare_key)

    def prepare_key(self, key: str | bytes) -> bytes:
        return self._prepare(key)


class _Signatures(jwt.PyJWS):
    """PyJWT's checks, with one algorithm for each kind of key."""

    def __init__(self) -> None:
        super().__init__(["RS256", "ES256", "EdDSA"])
        self.register_algorithm("HS256", _Hmac())

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        # PyJWT's name for it, and not a public one: should it go, tokens cost more again and nothing else changes.
        try:
            decoded = base64.urlsafe_b64decode(segment + b"==")
        except ValueError:
            decoded = b""
        if decoded and base64.urlsafe_b64encode(decoded).rstrip(b"=") == segment:
            return decoded  # what comes back unchanged has no other letters, and no other spelling
        return jwt.PyJWS._decode_base64url_segment(segment, name)  # noqa: SLF001


SIGNATURES: Final = _Signatures()
