"""Tickets over HTTP, without authentication; with it see tests/integration/test_auth_tokens.py."""

from __future__ import annotations

import httpx

from tests.support.servers import Server


def test_a_client_that_always_takes_a_ticket_gets_one(server: Server) -> None:
    answer = httpx.post(f"{server.http}/tickets")
    ticket = answer.json()["ticket"]

    assert answer.headers["cache-control"] == "no-store"
    assert httpx.get(f"{server.http}/poll?channel=a&wait=0&ticket={ticket}").status_code == 200
    assert httpx.get(f"{server.http}/tickets").status_code == 405
