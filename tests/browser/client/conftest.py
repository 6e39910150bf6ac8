"""Fixtures for client.js in Chromium: a gateway without authentication and one with tokens, pages, and publishers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import pytest
from notify_client import Publisher
from playwright.sync_api import Browser, BrowserContext

from tests.browser.client.pages import NO_WEBSOCKET, SECONDS, Ledger, Open, open_in
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET


@pytest.fixture
def ledger(publisher: Publisher) -> Ledger:
    return Ledger(publisher)


numbers = count(1)


@pytest.fixture
def channel() -> str:
    return f"jobs:{next(numbers)}"


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    """A gateway without authentication."""
    with running_gateway(shared_redis_url, heartbeat_seconds="1") as server:
        yield server
        assert "Traceback" not in server.output()


@pytest.fixture(scope="module")
def guarded(shared_redis_url: str) -> Iterator[Server]:
    """A gateway that requires tokens."""
    with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET) as server:
        yield server
        assert "Traceback" not in server.output()
        assert "eyJ" not in server.output()


@pytest.fixture
def make_context(chromium: Browser) -> Iterator[Callable[[int], BrowserContext]]:
    """Makes separate browser contexts: at level 0 with all transports, at 1 without WebSocket, at 2 without SSE either."""
    contexts = []
    errors: list[str] = []

    def make(level: int) -> BrowserContext:
        context = chromium.new_context()
        contexts.append(context)
        context.set_default_timeout(SECONDS * 1000)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        if level:
            context.add_init_script(NO_WEBSOCKET)
        if level == 2:
            context.route("**/sse?*", lambda route: route.abort())
        return context

    yield make
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def context(make_context: Callable[[int], BrowserContext]) -> BrowserContext:
    return make_context(0)


@pytest.fixture
def cache(chromium: Browser) -> Iterator[BrowserContext]:
    """A context of a browser with a back/forward cache, which playwright turns off."""
    off = ["--disable-back-forward-cache"]
    browser = chromium.browser_type.launch(executable_path=CHROMIUM, args=ARGUMENTS, ignore_default_args=off)
    context = browser.new_context()
    context.set_default_timeout(SECONDS * 1000)
    yield context
    browser.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Open:
    return partial(open_in, context)
