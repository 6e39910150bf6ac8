"""Revocation over HTTP: ``POST /revoke`` with the ``admin`` claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.claims import MAX_TEXT, is_name
from gateway.errors import BadRequest, Forbidden, Unprocessable
from gateway.store.revocations import RevocationStore
from gateway.transports.answers import answer_json, check_method
from gateway.transports.body import read_body, reason
from gateway.transports.services import Services
from gateway.transports.writer import Receive, Send

MAX_BODY_BYTES: Final = 4_096


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What to revoke: all tokens that a subject was issued up to now, or one token."""

    sub: str | None = None
    jti: str | None = None


_decode: Final = msgspec.json.Decoder(Order)


def parse_order(body: bytes) -> Order:
    """Parse the body of a request, as ``read_body`` returns it.

    Raises:
        BadRequest: if it is not JSON.
        Unprocessable: if it does not have exactly one of ``sub`` and ``jti``.
    """
    try:
        order = _decode.decode(body)
    except msgspec.ValidationError as error:
        raise Unprocessable(f"{reason(error)}: sub or jti is expected") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if (order.sub is None) == (order.jti is None) or not is_name(order.sub if order.jti is None else order.jti):
        raise Unprocessable(f"one of sub and jti, a printable text of 1 to {MAX_TEXT} characters, is expected")
    return order


class RevokeEndpoint:
    """Takes revocations. Once it has answered, every gateway that is connected to Redis has been told."""

    def __init__(self, services: Services, store: RevocationStore) -> None:
        self._services = services
        self._store = store

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "POST")
        grant = await self._services.gate.authenticate(scope)
        if not grant.admin:
            raise Forbidden("the token has no claim admin")
        order = parse_order(await read_body(scope, receive, MAX_BODY_BYTES))
        self._services.recheck(grant)
        await answer_json(send, {"revoked": await self._store.revoke(sub=order.sub, jti=order.jti)})
