"""Signatures: PyJWT's proof of a token (RFC 7515), without what PyJWT does again for each token and need do only once.

The secret is looked at once and not for each token, and the HMAC goes on from it. A segment that comes out of base64 and goes back
into it unchanged is not also looked at letter by letter in Python. And all tokens of an issuer have one header: what PyJWT has found
good in it once is good in the next token with that secret's signature. Whatever is not so plain goes PyJWT's own way. That was most
of what a token cost (``loadtest/experiments/authorised-handshake``).
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
    """HMAC that remembers which secret it has looked at last: whether that is a public key, above all.

    cryptography's, because it is all C: a copy of the standard library's takes four functions of Python, and twice the time.
    """

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)
        self._prepare = lru_cache(maxsize=1)(super().prepare_key)
        self._begun = lru_cache(maxsize=1)(lambda key: HMAC(key, SHA256()))

    def prepare_key(self, key: str | bytes) -> bytes:
        return self._prepare(key)

    def check_key_length(self, key: bytes) -> None:
        """Nothing to warn of: ``keys.secret_key`` has refused a short one."""

    def spell(self, signed: bytes, key: bytes) -> bytes:
        """The signature of a token's first two parts, as it stands in the third."""
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
        self._headers: set[bytes] = set()  # first parts of tokens that PyJWT has proved with HS256

    def prove(self, token: str, key: Key) -> bytes:
        """The payload of a token that was signed with this key.

        Raises:
            jwt.PyJWTError, ValueError, TypeError: if it was not.
        """
        signed, _, signature = token.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        if header in self._headers and key.algorithm == "HS256" and compare_digest(self._hmac.spell(signed, key.key), signature):
            return self._decode_base64url_segment(payload, "payload")
        proved: bytes = self.decode(token, key.key, algorithms=[key.algorithm])
        if key.algorithm == "HS256" and len(self._headers) < MAX_HEADERS:
            self._headers.add(header)
        return proved

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
