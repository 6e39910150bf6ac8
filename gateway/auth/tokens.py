"""Tokens: JSON Web Token -> Grant (RFC 7519), and a memory of those that were checked.

Nothing of a token is believed before its signature is proved, ``jku`` and ``x5u`` are not even read, and no error quotes it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

from gateway.auth.keys import Key, Keys
from gateway.core.grant import Grant
from gateway.errors import Unauthorized

MAX_TOKEN_BYTES: Final = 8_192
REMEMBERED: Final = 16_384  # tokens, some 1 KiB each
CLOCK_SECONDS: Final = 5.0  # by which an issuer's clock may be ahead, for nbf and iat

_COMPLAINTS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.InvalidSignatureError, "the token's signature is wrong"),
    (jwt.InvalidAlgorithmError, "the token's algorithm is not that of the key"),
    (jwt.ImmatureSignatureError, "the token is not valid yet: claims nbf and iat"),
    (jwt.InvalidAudienceError, "claim aud: this gateway is not meant"),
    (jwt.InvalidIssuerError, "claim iss: this issuer is not trusted"),
    (jwt.exceptions.InvalidSubjectError, "claim sub: a text is expected"),
    (jwt.exceptions.InvalidJTIError, "claim jti: a text is expected"),
    (jwt.InvalidIssuedAtError, "claim iat: a number of seconds since 1970 is expected"),
)


def _complaint(error: Exception) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"claim {error.claim}: missing"
    return next((text for kind, text in _COMPLAINTS if isinstance(error, kind)), "the token is no JSON Web Token")


class Tokens:
    """Checks tokens.

    Args:
        keys: what they are signed with
        audience, issuer: what ``aud`` and ``iss`` must be, if configured
    """

    def __init__(self, keys: Keys, audience: str | None = None, issuer: str | None = None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._known: dict[bytes, Grant] = {}
        self._generation = keys.generation

    async def verify(self, token: str) -> Grant:
        """What a token allows.

        Raises:
            Unauthorized: if it is bad or expired.
            Unavailable: if that cannot be known now.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized(f"a token of {len(token)} bytes: at most {MAX_TOKEN_BYTES} are allowed")
        if not token.isascii():
            raise Unauthorized("the token is no JSON Web Token")
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._known.clear()
        digest = hashlib.sha256(token.encode()).digest()
        grant = self._known.pop(digest, None)
        if grant is None:
            key = await self._keys.find(token)
            grant = Grant.from_claims(self._claims(token, key))
        if grant.expires <= time.time():
            raise Unauthorized("the token has expired")
        self._known[digest] = grant  # as the newest
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return grant

    def _claims(self, token: str, key: Key) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=CLOCK_SECONDS,
                # exp is checked by the caller: to the second, and each time a remembered token is used.
                options={"require": ["exp", "sub"], "verify_exp": False, "verify_aud": self._audience is not None},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthorized(_complaint(error)) from None
