"""Errors of an endpoint, answered as far as the server allows."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from gateway.errors import Unavailable
from gateway.transports.guarded import Guarded

HTTP = {"type": "http", "path": "/poll", "headers": []}
UPGRADE = {"type": "websocket", "path": "/ws", "headers": []}


async def answers(scope: dict[str, Any], error: Exception) -> list[MutableMapping[str, Any]]:
    """What is sent if an endpoint raises this error."""
    sent: list[MutableMapping[str, Any]] = []

    async def endpoint(*_: object) -> None:
        raise error

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise NotImplementedError

    await Guarded(endpoint)(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("scope", "prefix"),
    [(HTTP, "http.response."), (UPGRADE | {"extensions": {"websocket.http.response": {}}}, "websocket.http.response.")],
    ids=["request", "upgrade"],
)
async def test_an_error_is_answered_with_its_status_and_problem(scope: dict[str, Any], prefix: str) -> None:
    start, body = await answers(scope, Unavailable("Redis is away"))

    assert (start["type"], body["type"]) == (f"{prefix}start", f"{prefix}body")
    assert start["status"] == 503
    assert json.loads(body["body"])["detail"] == "Redis is away"


async def test_an_upgrade_is_closed_where_the_server_takes_no_response_to_it() -> None:
    assert await answers(UPGRADE, Unavailable("Redis is away")) == [{"type": "websocket.close"}]


async def test_another_error_is_left_to_the_server() -> None:
    with pytest.raises(ZeroDivisionError):
        await answers(HTTP, ZeroDivisionError())
