"""Tickets over HTTP: ``POST /tickets`` with a bearer token gives a ticket for one connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import Unauthorized
from gateway.store.tickets import TICKET_SECONDS, Tickets
from gateway.transports.answers import answer_json, check_method
from gateway.transports.credentials import find_credential
from gateway.transports.request import header
from gateway.transports.services import Services
from gateway.transports.writer import Receive, Send


class TicketEndpoint:
    """Issues tickets."""

    def __init__(self, services: Services, tickets: Tickets) -> None:
        self._services = services
        self._tickets = tickets

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, "POST")
        credential = find_credential(scope)
        by_ticket = credential is not None and credential.way == "ticket"
        if not self._services.anybody and (by_ticket or header(scope, b"authorization") is None):
            # A ticket must not buy the next one, or it could be prolonged for ever; and a page that has the cookie needs no ticket.
            raise Unauthorized("no token: Authorization: Bearer is expected", has_token=False)
        grant = await self._services.gate.authenticate(scope)
        await answer_json(send, {"ticket": await self._tickets.issue(grant), "expires_in": TICKET_SECONDS})
