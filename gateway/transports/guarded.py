"""Guarded: an endpoint whose errors are logged, counted and answered, to a request or to an upgrade that was not accepted yet."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.transports.answers import answer_problem
from gateway.transports.log_lines import log_refusal
from gateway.transports.request import Endpoint, Scope
from gateway.transports.writer import Message, Receive, Send


class Guarded:
    """Wraps an endpoint and answers the ``GatewayError`` that it raises."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._endpoint(scope, receive, send)
        except GatewayError as error:
            log_refusal(scope, error)
            await _answer(scope, send, error)


async def _answer(scope: Scope, send: Send, error: GatewayError) -> None:
    if scope["type"] == "http":
        await answer_problem(send, error)
    elif "websocket.http.response" in scope.get("extensions", {}):

        async def as_response(message: Message) -> None:
            await send({**message, "type": "websocket." + message["type"]})

        await answer_problem(as_response, error)
    else:
        # The server cannot answer an upgrade with more than its own 403.
        await send({"type": "websocket.close"})
