"""Status: ``/livez``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST

from gateway import exposition
from gateway.errors import GatewayError, NotFound, Unavailable
from gateway.transports.answers import answer, answer_json, answer_problem, check_method
from gateway.transports.figures import measure
from gateway.transports.services import NOT_RUNNING, Services
from gateway.transports.writer import Receive, Send

_METHODS: Final = ("GET", "HEAD")  # some monitoring tools send HEAD
_PROXIES: Final = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"via")  # how the names of headers begin that proxies add


class LiveEndpoint:
    """Tells that the process is alive."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, *_METHODS)
        await answer_json(send, {"status": "alive"})


class ReadyEndpoint:
    """Tells whether events get through Redis."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, *_METHODS)
        if self._services.draining:
            await answer_problem(send, Unavailable("the gateway is shutting down"), is_refusal=False)
        elif not self._services.running:
            await answer_problem(send, Unavailable(NOT_RUNNING), is_refusal=False)
        elif why := self._services.feed.probe.problem:
            await answer_problem(send, Unavailable(why), is_refusal=False)
        else:
            await answer_json(send, {"status": "ready"})


class MetricsEndpoint:
    """Gives the metrics to a peer on loopback whose request did not come through a proxy, and to a token with the ``admin`` claim."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        check_method(scope, *_METHODS)
        if not _is_local(scope):
            try:
                grant = await self._services.gate.authenticate(scope)
            except Unavailable:
                raise  # it cannot be known now whether this is an admin, for whom a 404 would be wrong
            except GatewayError:
                grant = None
            if grant is None or not grant.admin or self._services.anybody:
                raise NotFound("there is nothing here")
        elif self._services.anybody:
            await self._services.gate.authenticate(scope)  # refuses pages of other origins in a browser on this machine
        measure(self._services)
        try:
            figures = exposition.render()
        except OSError as error:  # such as too many open files
            raise Unavailable(f"the figures of the other workers cannot be read: {error.strerror}") from error
        await answer(send, 200, figures, CONTENT_TYPE_LATEST.encode())


def _is_local(scope: Mapping[str, Any]) -> bool:
    client = scope.get("client")
    if not client or any(name.startswith(_PROXIES) for name, _ in scope["headers"]):
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
