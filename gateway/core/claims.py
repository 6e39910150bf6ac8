"""Claims: what a token says (RFC 7519), and whether each claim has the right type and range.

``parse_claims`` decodes a payload straight into ``Claims`` in C, because checking each claim in Python costs at least 20 us in a busy
gateway (``loadtest/experiments/handshake-cost``). Only a payload that does not fit is checked claim by claim (``check_claims``), to
name the claim at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.errors import Unauthorized

MAX_TEXT: Final = 255  # characters in sub and in jti
MAX_TIME: Final = 253_402_300_799  # the end of the year 9999: a later time must be a mistake, such as milliseconds

Seconds = Annotated[float, Meta(ge=0, le=MAX_TIME)]
"""Since 1970."""


class Claims(msgspec.Struct, kw_only=True):
    """The claims of a token that the gateway knows; others are ignored. An absent optional claim is ``None``.

    Attributes:
        subscribe, publish: the patterns as texts, not validated yet; ``UNSET`` if the claim is absent
        aud, iss: any JSON value; they are compared with the configured audience and issuer
    """

    sub: str
    exp: Seconds
    nbf: Seconds | None = None
    iat: Seconds | None = None
    jti: str | None = None
    admin: bool = False
    subscribe: tuple[str, ...] | UnsetType = UNSET
    publish: tuple[str, ...] | UnsetType = UNSET
    aud: Any = None
    iss: Any = None


_decode: Final = msgspec.json.Decoder(Claims)
_decode_any: Final = msgspec.json.Decoder(dict[str, Any])


def parse_claims(payload: bytes) -> Claims:
    """Decode the payload of a token whose signature has been verified.

    Raises:
        Unauthorized: if a claim is missing or malformed; the error names it.
        msgspec.DecodeError, ValueError, RecursionError: if the payload is not a JSON object.
    """
    try:
        claims = _decode.decode(payload)
    except msgspec.ValidationError:
        return check_claims(_decode_any.decode(payload))
    if is_name(claims.sub) and (claims.jti is None or is_name(claims.jti)):
        return claims
    return check_claims(_decode_any.decode(payload))


def check_claims(claims: Mapping[str, Any]) -> Claims:
    """Check claims one by one.

    Raises:
        Unauthorized: if a claim is missing or malformed; the error names it.
    """
    subject = _text(claims, "sub")
    expires = _time(claims, "exp")
    if subject is None or expires is None:
        raise Unauthorized(f"claim {'sub' if subject is None else 'exp'}: missing")
    admin = claims.get("admin", False)
    if not isinstance(admin, bool):
        raise Unauthorized("claim admin: true or false is expected")
    return Claims(
        sub=subject,
        exp=expires,
        nbf=_time(claims, "nbf"),
        iat=_time(claims, "iat"),
        jti=_text(claims, "jti"),
        admin=admin,
        subscribe=_texts(claims, "subscribe"),
        publish=_texts(claims, "publish"),
        aud=claims.get("aud"),
        iss=claims.get("iss"),
    )


def is_name(value: object) -> bool:
    """Whether this can be a subject or a token's id, which are logged, compared and stored in Redis."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _text(claims: Mapping[str, Any], claim: str) -> str | None:
    value = claims.get(claim)
    if value is not None and not is_name(value):
        raise Unauthorized(f"claim {claim}: a printable text of 1 to {MAX_TEXT} characters is expected")
    return value


def _time(claims: Mapping[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME:
        raise Unauthorized(f"claim {claim}: a number of seconds since 1970, at most {MAX_TIME}, is expected")
    return float(value)


def _texts(claims: Mapping[str, Any], claim: str) -> tuple[str, ...] | UnsetType:
    if claim not in claims:
        return UNSET
    value = claims[claim]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Unauthorized(f"claim {claim}: an array of channels, each exact or ending in *, is expected")
    return tuple(value)
