"""Tokens: turns a JSON Web Token into a grant (RFC 7519), and remembers those that were checked.

PyJWT verifies the signature. Nothing in a token is trusted before that; ``jku`` and ``x5u`` are not even read; and no error quotes a
token.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Final

import jwt
import msgspec

from gateway.auth.keys import Key, Keys
from gateway.auth.signatures import SIGNATURES
from gateway.core.claims import Claims, parse_claims
from gateway.core.grant import Grant
from gateway.errors import Unauthorized

MAX_TOKEN_BYTES: Final = 8_192
MAX_REMEMBERED: Final = 16_384  # tokens, some 1 KiB each
CLOCK_SECONDS: Final = 5.0  # by which an issuer's clock may be ahead of ours


def _verified_claims(token: str, key: Key) -> Claims:
    """The claims of a token, if it was signed with this key."""
    try:
        return parse_claims(SIGNATURES.verify(token, key))
    except jwt.InvalidSignatureError:
        raise Unauthorized("the token's signature is wrong") from None
    except jwt.InvalidAlgorithmError:
        raise Unauthorized("the token's algorithm is not that of the key") from None
    except (jwt.PyJWTError, msgspec.DecodeError, ValueError, TypeError, RecursionError):
        raise Unauthorized("the token is not a JSON Web Token") from None


class Tokens:
    """Checks tokens.

    Args:
        keys: that they are signed with
        audience: what ``aud`` must be or contain; ``None`` for anything
        issuer: what ``iss`` must be; ``None`` for anything
    """

    def __init__(self, keys: Keys, audience: str | None = None, issuer: str | None = None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        # Ordered by last use. Not a plain dictionary, which has to step over all removed keys to find its first one.
        self._known: OrderedDict[bytes, Grant] = OrderedDict()
        self._generation = keys.generation

    async def verify(self, token: str) -> Grant:
        """What a token allows.

        Raises:
            Unauthorized: if it is invalid or expired.
            Unavailable: if the key that it needs is not known now.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized(f"a token of {len(token)} bytes: at most {MAX_TOKEN_BYTES} are allowed")
        if not token or not token.isascii():
            raise Unauthorized("the token is not a JSON Web Token" if token else "the token is empty")
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._known.clear()
        digest = hashlib.sha256(token.encode()).digest()
        grant = self._known.get(digest)
        if grant is None:
            claims = _verified_claims(token, await self._keys.find(token))
            grant = Grant.from_claims(claims)
            self._check(claims)
        if grant.expires <= time.time():
            self._known.pop(digest, None)
            raise Unauthorized("the token has expired")
        self._known[digest] = grant
        self._known.move_to_end(digest)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return grant

    def _check(self, claims: Claims) -> None:
        """Check claims as in RFC 7519, sections 4.1.1 to 4.1.6; ``exp`` is checked each time a token is used."""
        latest = time.time() + CLOCK_SECONDS
        if (claims.nbf or 0) > latest or (claims.iat or 0) > latest:
            raise Unauthorized(f"claim {'nbf' if (claims.nbf or 0) > latest else 'iat'}: the token is not valid yet")
        if self._issuer is not None and claims.iss != self._issuer:
            raise Unauthorized(f"claim iss: {'missing' if claims.iss is None else 'this issuer is not trusted'}")
        if self._audience is not None:
            if claims.aud is None:
                raise Unauthorized("claim aud: missing")
            if self._audience != claims.aud and not (isinstance(claims.aud, list) and self._audience in claims.aud):
                raise Unauthorized("claim aud: another audience than this gateway is meant")
