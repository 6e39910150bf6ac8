"""client.js reconnects after it has lost its connection, its transport or its token, and loses no event."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Route

from gateway.embedded import free_port
from tests.browser.client.pages import (
    NO_WEBSOCKET,
    PAGE,
    Ledger,
    Open,
    begin,
    gateway_on,
    open_in,
    transport,
    wait_connections,
    wait_for_log,
    wait_live,
)
from tests.support.servers import Server
from tests.support.tokens import make_token

NATIVE = """(channel) => {
    window.log = {};
    window.gaps = [];
    const source = new EventSource(`/sse?channel=${channel}&since=0`);
    source.onmessage = ({ data }) => { const event = JSON.parse(data); (log[event.channel] ??= []).push(event.id); };
    source.addEventListener("gap", ({ data }) => gaps.push(JSON.parse(data).channel));
}"""


def test_nothing_is_lost_when_a_gateway_is_killed_and_another_takes_its_place(
    make_context: Callable[[int], BrowserContext], shared_redis_url: str, ledger: Ledger, channel: str
) -> None:
    port = free_port()
    ledger.publish(channel)
    with gateway_on(port, shared_redis_url) as server:
        pages = [open_in(make_context(level), server, [channel], since="0") for level in range(3)]
        native = open_in(make_context(0), server)
        native.evaluate(NATIVE, channel)
        for page in (*pages, native):
            page.set_default_timeout(30_000)  # the longest wait before a reconnect is 20 s
        for page in pages:
            wait_live(page)
        ledger.publish(channel)
        for page in (*pages, native):
            wait_for_log(page, channel, ledger.ids[channel])
        assert [transport(page) for page in pages] == [0, 1, 2]
        server.process.kill()
        server.process.wait()
    for _ in range(20):
        ledger.publish(channel)
    for page in pages:
        page.wait_for_function("feed.status === 'waiting'")
    with gateway_on(port, shared_redis_url):
        ledger.publish(channel, "completed", final=True)

        for page in (*pages, native):
            wait_for_log(page, channel, ledger.ids[channel])
        assert [transport(page) for page in pages] == [0, 1, 2]


def test_a_plain_event_source_outlives_a_restart_also_if_it_comes_back_during_the_drain(
    make_context: Callable[[int], BrowserContext], shared_redis_url: str, ledger: Ledger, channel: str
) -> None:
    port = free_port()
    ledger.publish(channel)
    with gateway_on(port, shared_redis_url, drain_seconds="8") as server:
        pages = [open_in(make_context(0), server) for _ in range(3)]
        for page in pages:
            page.evaluate(NATIVE, channel)
            wait_for_log(page, channel, ledger.ids[channel])
        server.process.terminate()  # closes one at once, and the last after 5 s
        ledger.publish(channel)
        server.process.wait()
    ledger.publish(channel)
    with gateway_on(port, shared_redis_url):
        ledger.publish(channel, "completed", final=True)

        for page in pages:
            wait_for_log(page, channel, ledger.ids[channel])


def test_a_page_keeps_to_websocket_that_comes_back_while_the_gateway_drains(
    make_context: Callable[[int], BrowserContext], shared_redis_url: str, ledger: Ledger, channel: str
) -> None:
    port = free_port()
    with gateway_on(port, shared_redis_url, drain_seconds="8") as server:
        pages = [open_in(make_context(0), server, [channel]) for _ in range(2)]
        for page in pages:
            wait_live(page)
        server.process.terminate()  # closes one at once, and the other after 4 s
        for page in pages:
            page.wait_for_function("states.filter((state) => state === 'waiting').length > 1")
        server.process.wait()
    with gateway_on(port, shared_redis_url):
        ledger.publish(channel)

        for page in pages:
            wait_for_log(page, channel, ledger.ids[channel])
        assert [transport(page) for page in pages] == [0, 0]


@pytest.mark.parametrize("level", [0, 1], ids=["websocket", "sse"])
def test_a_page_that_was_offline_gets_what_it_missed(
    make_context: Callable[[int], BrowserContext], gateway: Server, ledger: Ledger, channel: str, level: int
) -> None:
    context = make_context(level)
    page = open_in(context, gateway, [channel], quiet=1000)
    wait_live(page)
    context.set_offline(True)
    for _ in range(5):
        ledger.publish(channel)
    context.set_offline(False)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])


TOKENS = "(tokens) => (window.asked = 0, () => tokens[Math.min(asked++, tokens.length - 1)])"


@pytest.mark.parametrize("level", [0, 1, 2], ids=["websocket", "sse", "polling"])
def test_a_token_that_expires_is_renewed(
    make_context: Callable[[int], BrowserContext], guarded: Server, ledger: Ledger, channel: str, level: int
) -> None:
    for life in (3, 30):  # on a busy machine the first may be too short to connect with, and to renew it in time
        page = open_in(make_context(level), guarded)
        tokens = [make_token("ann", subscribe=["jobs:*"], exp=time.time() + seconds) for seconds in (life, 90)]
        page.evaluate(f"([channel, tokens]) => begin([channel], {{ token: ({TOKENS})(tokens), since: '0' }})", [channel, tokens])
        wait_live(page)
        deadline = time.monotonic() + life + 0.5
        while time.monotonic() < deadline:
            ledger.publish(channel)
            page.wait_for_timeout(100)

        wait_for_log(page, channel, ledger.ids[channel])
        # Over an open WebSocket nobody notices.
        as_wanted = ("waiting" in page.evaluate("states")) == (level > 0)
        if as_wanted:
            break
    assert page.evaluate("asked") >= 2
    assert as_wanted


def test_a_token_that_is_refused_is_asked_for_once_more(open_page: Open, guarded: Server, channel: str) -> None:
    page = open_page(guarded)
    bad = make_token("ann", subscribe=["jobs:*"], key="a-key-of-somebody-else-altogether-really")
    page.evaluate(f"([channel, tokens]) => begin([channel], {{ share: false, token: ({TOKENS})(tokens) }})", [channel, [bad]])
    page.wait_for_function("feed.status === 'stopped'")

    assert page.evaluate("problem.status") == 401
    assert page.evaluate("asked") == 2


def test_a_token_function_that_has_none_once_leaves_the_connection_as_it_is_until_the_token_expires(
    open_page: Open, guarded: Server, ledger: Ledger, channel: str
) -> None:
    page = open_page(guarded)
    tokens = [make_token("ann", subscribe=["jobs:*"], exp=time.time() + 8), None, make_token("ann", subscribe=["jobs:*"])]
    page.evaluate(f"([channel, tokens]) => begin([channel], {{ token: ({TOKENS})(tokens), since: '0' }})", [channel, tokens])
    page.wait_for_function("asked === 2")
    ledger.publish(channel)
    page.wait_for_function("asked === 3")
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])
    assert "stopped" not in page.evaluate("states")


def test_another_users_job_is_refused_and_ones_own_goes_on(open_page: Open, guarded: Server, ledger: Ledger, channel: str) -> None:
    own, other = f"user:ann:{channel}", f"user:bob:{channel}"
    page = open_page(guarded, [own, other], token=make_token("ann"))
    problem = page.evaluate("(other) => feed.done(other).catch((problem) => ({ ...problem, text: problem.message }))", other)
    wait_live(page)
    page.evaluate("(other) => { feed.follow(other); feed.unfollow(other); }", other)
    ledger.publish(other)
    ledger.publish(own)

    wait_for_log(page, own, ledger.ids[own])
    assert problem["status"] == 403
    assert problem["channel"] == other
    assert page.evaluate("Object.keys(log)") == [own]


def test_where_websocket_is_blocked_sse_is_used_and_where_that_is_too_polling(
    context: BrowserContext, open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
    wait_connections(gateway, 0)
    context.add_init_script(NO_WEBSOCKET)
    page = open_page(gateway, [channel])
    wait_live(page)
    ledger.publish(channel)
    wait_for_log(page, channel, ledger.ids[channel])
    assert transport(page) == 1
    page.evaluate("feed.follow('jobs:more')")
    ledger.publish("jobs:more")
    wait_for_log(page, "jobs:more", ledger.ids["jobs:more"][-1:])

    def refuse(route: Route) -> None:
        route.fulfill(status=502)

    context.route("**/sse?*", refuse)
    page.reload()
    page.evaluate(PAGE)
    begin(page, [channel], since=ledger.ids[channel][0])
    wait_live(page)
    ledger.publish(channel)
    wait_for_log(page, channel, ledger.ids[channel][1:])
    assert transport(page) == 2


def test_a_websocket_that_hangs_falls_to_sse(
    context: BrowserContext, open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
    context.add_init_script("window.WebSocket = class { close() {} };")
    page = open_page(gateway, [channel])
    wait_live(page)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])
    assert transport(page) == 1


# Where a connection that never opens is waited for for ever, and not for 5 s.
NEVER_GIVES_UP = "() => { const { setTimeout } = window; window.setTimeout = (...timer) => timer[1] === 5000 || setTimeout(...timer); }"


def test_a_websocket_that_a_content_security_policy_forbids_falls_to_sse_at_once(
    context: BrowserContext, gateway: Server, ledger: Ledger, channel: str
) -> None:
    policy = {"content-security-policy": f"connect-src {gateway.http}"}  # http: does not stand for ws:
    context.route("**/page", lambda route: route.fulfill(content_type="text/html", headers=policy))
    page = context.new_page()
    page.goto(f"{gateway.http}/page")
    page.evaluate(NEVER_GIVES_UP)
    page.evaluate(PAGE)
    begin(page, [channel])
    wait_live(page)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])
    assert transport(page) == 1


# A network that comes back after WebSocket was tried and before SSE is. With `blocked` it lets no WebSocket through from then on.
AWAY = """(blocked) => {
    const { WebSocket, fetch } = window;
    let away = false;
    window.sockets = 0;
    window.WebSocket = class extends WebSocket {
        constructor(url) {
            sockets++;
            super(away ? "ws://127.0.0.1:9" : url);
            window.lose = () => { away = true; this.close(); };
        }
    };
    window.fetch = (...request) => { away = blocked; return fetch(...request); };
}"""


@pytest.mark.parametrize("blocked", [False, True], ids=["not blocked", "blocked"])
def test_a_page_whose_network_comes_back_while_it_connects_keeps_to_websocket_where_that_gets_through(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str, blocked: bool
) -> None:
    page = open_page(gateway)
    page.evaluate(AWAY, blocked)
    begin(page, [channel])
    wait_live(page)
    page.evaluate("lose()")
    page.wait_for_function("states.includes('waiting')")
    page.wait_for_function("sockets === 3")  # the first, one while the network was away, and one after that
    wait_live(page)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])
    assert transport(page) == blocked
    assert page.evaluate("sockets") == 3


def test_a_clock_that_is_fast_asks_for_no_token_before_its_time(open_page: Open, guarded: Server, channel: str) -> None:
    page = open_page(guarded)
    page.clock.install(time=time.time() + 3_600)
    page.evaluate(
        f"([channel, tokens]) => begin([channel], {{ token: ({TOKENS})(tokens) }})", [channel, [make_token(subscribe=["jobs:*"])]]
    )
    wait_live(page)
    page.clock.run_for(10_000)

    assert page.evaluate("asked") == 1


def test_a_full_local_storage_does_not_keep_it_from_connecting(
    make_context: Callable[[int], BrowserContext], gateway: Server, ledger: Ledger, channel: str
) -> None:
    page = open_in(make_context(1), gateway)
    page.evaluate("""() => {
        for (let size = 1 << 20; size; size >>= 1)
            try { for (let i = 0; ; i++) localStorage[`${size}:${i}`] = "x".repeat(size); } catch {}
        begin([]);
    }""")
    ledger.publish(channel)
    page.evaluate("(channel) => feed.follow(channel)", channel)

    wait_for_log(page, channel, ledger.ids[channel])
    assert page.evaluate("Object.keys(localStorage).some((name) => name.startsWith('notify'))") is False


def test_showing_a_tab_does_not_shorten_the_wait_that_the_gateway_asks_for(
    make_context: Callable[[int], BrowserContext], gateway: Server, channel: str
) -> None:
    context = make_context(1)
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503, headers={"retry-after": "30"})

    context.route("**/sse?*", refuse)
    page = open_in(context, gateway, [channel])
    page.wait_for_function("feed.status === 'waiting'")
    for _ in range(3):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")
        page.evaluate("fetch('/livez').then(() => {})")  # what would have been asked for is on its way before this

    assert len(asked) == 1


def test_showing_a_tab_ends_a_wait_that_the_gateway_did_not_ask_for(
    make_context: Callable[[int], BrowserContext], gateway: Server, channel: str
) -> None:
    context = make_context(1)
    context.route("**/sse?*", lambda route: route.fulfill(status=503), times=1)
    page = open_in(context, gateway)
    page.evaluate("Math.random = () => 100")  # the wait is longer than this test
    begin(page, [channel])
    page.wait_for_function("feed.status === 'waiting'")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")

    wait_live(page)
