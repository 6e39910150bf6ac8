"""Token: makes tokens for browsers, in the backend that knows who is logged in.

They are signed by HS256 with the gateway's GATEWAY_JWT_SECRET (RFC 7519; RFC 7515, appendix A.1), which takes only an HMAC of the
standard library. For other algorithms use a JWT library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from notify_client.command import check_pattern, show

MIN_SECRET_BYTES: Final = 32
MAX_SUB: Final = 255  # characters

_HEAD: Final = b'{"alg":"HS256","typ":"JWT"}'


def issue_token(
    secret: str,
    sub: str,
    *,
    subscribe: Iterable[str] | None = None,
    publish: Iterable[str] | None = None,
    ttl: float = 900,
    **claims: Any,
) -> str:
    """Make a token with which a client may follow channels.

    >>> issue_token("a secret of at least thirty-two bytes", "ann", subscribe=["jobs:42"], ttl=900).count(".")
    2

    Args:
        secret: GATEWAY_JWT_SECRET, at least 32 bytes
        sub: whom it speaks for, a printable text of at most 255 characters
        subscribe: the channels it may follow, each exact or ending in ``*``; ``user:<sub>`` and ``user:<sub>:*`` if not given
        publish: the channels it may publish on over HTTP; none if not given
        ttl: seconds until it expires
        claims: further claims, such as ``aud``, ``iss``, ``jti`` or ``admin``

    Returns:
        The token, for the cookie ``notify_token``, or for the option ``token`` of the browser client.

    Raises:
        ValueError: if the secret is too short, the gateway would refuse the subject, no channel can have one of the names, or ``ttl`` is
            not a positive number.
        TypeError: if a single text is given instead of a list of channels.
    """
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"secret: at least {MIN_SECRET_BYTES} bytes are expected")
    _check_subject(sub)
    if not 0 < ttl < math.inf:
        raise ValueError(f"ttl {ttl!r}: a positive number of seconds is expected")
    now = time.time()
    # iat with milliseconds, so that a token made right after the subject's tokens were revoked is newer than the revocation.
    payload: dict[str, Any] = {"sub": sub, "iat": round(now, 3), "exp": round(now + ttl, 3)} | claims
    for name, channels in (("subscribe", subscribe), ("publish", publish)):
        if isinstance(channels, str):
            raise TypeError(f"{name} {channels!r}: a list of channels is expected")
        if channels is not None:
            payload[name] = list(channels)
            for channel in payload[name]:
                check_pattern(name, channel)
    return _sign(payload, secret.encode())


def _check_subject(sub: object) -> None:
    if not (isinstance(sub, str) and 0 < len(sub) <= MAX_SUB and sub.isprintable()):
        raise ValueError(f"sub {show(sub)}: a printable text of 1 to {MAX_SUB} characters is expected, such as str(user.id)")


def _sign(payload: Mapping[str, Any], secret: bytes) -> str:
    signed = _encode(_HEAD) + b"." + _encode(json.dumps(payload, separators=(",", ":")).encode())
    return (signed + b"." + _encode(hmac.digest(secret, signed, hashlib.sha256))).decode()


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
