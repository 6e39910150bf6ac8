"""The ASGI scopes of requests and upgrades."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.server.site import Site

HOST = (b"host", b"a")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Never called."""


@pytest.fixture
async def site() -> Site:
    config = Config(application, root_path="/base", log_config=None)
    config.load()
    return Site(config, ServerState(), {"shared": 1}, asyncio.get_running_loop())


def http_scope(site: Site, uri: bytes) -> dict[str, Any]:
    return site.http_scope(b"GET", "1.1", uri, [HOST], ("192.0.2.1", 5))


@pytest.mark.parametrize(
    ("uri", "path", "raw_path", "query"),
    [
        (b"/a?b=%20", "/a", b"/a", b"b=%20"),
        (b"/a%2fb%C3%A9?", "/a/bé", b"/a%2fb%C3%A9", b""),
        (b"//a?b?c", "//a", b"//a", b"b?c"),
        (b"http://host:1/a?b", "/a", b"/a", b"b"),
        (b"http://host?b", "/", b"/", b"b"),
        (b"http://host", "/", b"/", b""),
    ],
)
async def test_a_url_is_parsed(site: Site, uri: bytes, path: str, raw_path: bytes, query: bytes) -> None:
    scope = http_scope(site, uri)

    assert (scope["type"], scope["scheme"], scope["http_version"], scope["method"]) == ("http", "http", "1.1", "GET")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/base" + path, b"/base" + raw_path, query)
    assert (scope["root_path"], scope["client"], scope["headers"], scope["state"]) == ("/base", ("192.0.2.1", 5), [HOST], {"shared": 1})


async def test_a_change_of_one_scope_does_not_reach_the_next(site: Site) -> None:
    first = http_scope(site, b"/")
    first["state"]["shared"] = first["extensions"]["mine"] = first["asgi"]["version"] = "changed"

    second = http_scope(site, b"/")
    assert (second["state"], second["extensions"], second["asgi"]["version"]) == ({"shared": 1}, {}, "3.0")


async def test_an_upgrade_has_what_the_client_offers(site: Site) -> None:
    offers = [(b"sec-websocket-protocol", b"a, b"), HOST, (b"sec-websocket-protocol", b"c")]

    scope = site.websocket_scope(b"/ws?x", offers, None)

    assert (scope["type"], scope["scheme"], scope["path"], scope["subprotocols"]) == ("websocket", "ws", "/base/ws", ["a", "b", "c"])
    assert (scope["asgi"]["version"], scope["http_version"], "method" in scope) == ("3.0", "1.1", False)
