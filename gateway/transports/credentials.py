"""Credentials: what a request brings to show who sends it, and the gate that turns this into a grant.

A credential that was put into the request on purpose (``Authorization: Bearer``, ``token=``, ``ticket=``) outranks the cookie, which
the browser adds by itself. A request with two different ones is refused, because it is not clear which one is meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from gateway.core.grant import Grant
from gateway.errors import BadRequest, Unauthorized
from gateway.store.tickets import Tickets
from gateway.transports.access import Access
from gateway.transports.origin import Origins
from gateway.transports.request import Scope, headers, query

if TYPE_CHECKING:
    from gateway.auth.backend import Backend
    from gateway.auth.tokens import Tokens

COOKIE: Final = "notify_token"

NOTHING: Final = "no token: Authorization: Bearer, token= or ticket= in the URL, or the cookie notify_token is expected"


class Credential(msgspec.Struct, frozen=True):
    """A credential, and the part of the request that it was in. The text is a secret."""

    way: Literal["bearer", "url", "ticket", "cookie"]
    text: str

    def __repr__(self) -> str:
        return f"<Credential {self.way}>"


def find_credential(scope: Scope) -> Credential | None:
    """The credential of a request; ``None`` if it has none.

    Raises:
        BadRequest: if there are two different ones.
    """
    found = _bearer(scope)
    if b"token=" in scope["query_string"] or b"ticket=" in scope["query_string"]:
        for name, value in query(scope):
            if name == "token":
                found.append(Credential("url", value))
            elif name == "ticket":
                found.append(Credential("ticket", value))
    found = found or _cookies(scope)
    if len(found) > 1 and len(differing := set(found)) > 1:
        ways = ", ".join(sorted(credential.way for credential in differing))
        raise BadRequest(f"{len(differing)} credentials ({ways}): one is expected")
    return found[0] if found else None


def _bearer(scope: Scope) -> list[Credential]:
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":  # any other scheme is meant for somebody else, such as a proxy in front
                found.append(Credential("bearer", token.strip()))
    return found


def _cookies(scope: Scope) -> list[Credential]:
    pairs = (part.strip().partition("=") for value in headers(scope, b"cookie") for part in value.split(";"))
    return [Credential("cookie", value.strip('"')) for name, _, value in pairs if name == COOKIE]


class Gate(Protocol):
    """Decides who may come in."""

    origins: Origins

    async def authenticate(self, scope: Scope, channels: Iterable[str] = ()) -> Grant:
        """What this request allows.

        Args:
            scope: of ASGI
            channels: that it wants to follow, for a backend that is asked about them

        Raises:
            BadRequest, Unauthorized, Forbidden, Unavailable: if it is refused.
        """

    async def verify(self, token: str) -> Grant:
        """What a token allows that was sent over an open connection.

        Raises:
            Unauthorized, Forbidden, Unavailable: if it is refused.
        """


class OpenGate:
    """The gate under ``GATEWAY_AUTH=none``: everybody on this machine may do everything."""

    def __init__(self, origins: Origins) -> None:
        self.origins = origins
        self._grant = Grant.everything()

    async def authenticate(self, scope: Scope, channels: Iterable[str] = ()) -> Grant:
        self.origins.check_local(scope)
        return self._grant

    async def verify(self, token: str) -> Grant:
        return self._grant


class TokenGate:
    """The gate under ``GATEWAY_AUTH=jwt``: takes a token, a ticket, or the answer of the team's own backend.

    If both a key and a backend are configured, tokens are checked with the key, and the backend is asked about callers without one.
    """

    def __init__(self, origins: Origins, access: Access, tickets: Tickets, tokens: Tokens | None, backend: Backend | None) -> None:
        self.origins = origins
        self._access = access
        self._tickets = tickets
        self._tokens = tokens
        self._backend = backend

    async def authenticate(self, scope: Scope, channels: Iterable[str] = ()) -> Grant:
        return await self._checked(await self._grant(scope, find_credential(scope), channels))

    async def verify(self, token: str) -> Grant:
        if self._tokens is not None:
            grant = await self._tokens.verify(token)
        else:
            grant = await self._ask(None, f"Bearer {token}", ())
        return await self._checked(grant)

    async def _checked(self, grant: Grant) -> Grant:
        """The grant, if it is valid. What was revoked may not be known yet, shortly after the start: then that is waited for."""
        if not self._access.loaded:
            await self._access.load()
        self._access.check(grant)
        return grant

    async def _grant(self, scope: Scope, credential: Credential | None, channels: Iterable[str]) -> Grant:
        if credential is not None and credential.way == "ticket":
            return await self._tickets.redeem(credential.text)
        if credential is not None and self._tokens is not None:
            if credential.way == "cookie":
                self.origins.check_ambient(scope)
            return await self._tokens.verify(credential.text)
        cookies = headers(scope, b"cookie")
        authorization = headers(scope, b"authorization")
        if credential is not None and credential.way == "url":
            authorization = [f"Bearer {credential.text}"]
        if self._backend is None or not (cookies or authorization):
            raise Unauthorized(NOTHING, has_token=False)
        # A browser adds not only cookies by itself but also a password that it was given. Other programs send no Origin with one.
        if cookies or (credential is None and headers(scope, b"origin")):
            self.origins.check_ambient(scope)
        return await self._ask("; ".join(cookies) or None, authorization[-1] if authorization else None, channels)

    async def _ask(self, cookie: str | None, authorization: str | None, channels: Iterable[str]) -> Grant:
        assert self._backend is not None
        try:
            found = [None if text is None else text.encode("latin-1") for text in (cookie, authorization)]
        except UnicodeEncodeError:
            raise Unauthorized("the token: letters that a header can hold are expected") from None
        return await self._backend.ask(found[0], found[1], channels)
