"""client.js in Chromium, against real gateways: whatever happens, every log that a page keeps equals the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import httpx
import pytest
from notify_client import Publisher
from playwright.sync_api import Browser, BrowserContext, Page, Route

from gateway.embedded import free_port
from tests.browser.conftest import CLIENT
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

SECONDS = 10.0

# What every page of these tests runs first. The log is what the handlers got, in order.
PAGE = """async () => {
    const { connect } = await import("/client.js");
    window.connect = connect;
    window.begin = (channels, options = {}) => {
        const feed = (window.feed = connect("/", { channels, ...options }));
        window.log = {};
        window.gaps = [];
        window.states = [];
        window.problem = null;
        feed.on("*", (event) => (log[event.channel] ??= []).push(event.id));
        feed.on("gap", (gap) => gaps.push(gap.channel));
        feed.on("status", (notice) => {
            states.push(notice.status);
            if (notice.status === "stopped") problem = { status: notice.problem.status, text: notice.problem.message };
        });
    };
}"""

# As a proxy that knows no WebSocket, and one that keeps streams back until they end.
NO_WEBSOCKET = "window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' })) } close() {} };"

# As a long way: what has come to the browser reaches the page half a second later. `came` counts the events.
SLOW_WEBSOCKET = """window.WebSocket = class extends WebSocket {
    set onmessage(handler) {
        super.onmessage = (message) => {
            came += message.data.includes('"id"');
            setTimeout(() => this.readyState === WebSocket.OPEN && handler(message), 500);
        };
    }
}; window.came = 0"""


class Ledger:
    """Publishes as a worker does, and keeps what was acknowledged."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.ids: dict[str, list[str]] = {}

    def publish(self, channel: str, type: str = "progress", data: Any = None, *, final: bool = False) -> str:
        id = self.publisher.publish(channel, type, data, final=final)
        assert id is not None
        self.ids.setdefault(channel, []).append(str(id))
        return str(id)


@pytest.fixture(scope="module")
def publisher(shared_redis_url: str) -> Iterator[Publisher]:
    with Publisher(shared_redis_url) as publisher:
        yield publisher


@pytest.fixture
def ledger(publisher: Publisher) -> Ledger:
    return Ledger(publisher)


numbers = count(1)


@pytest.fixture
def channel() -> str:
    return f"jobs:{next(numbers)}"


@contextmanager
def gateway_on(port: int, redis_url: str) -> Iterator[Server]:
    with running_gateway(redis_url, "--port", str(port), wait=False) as server:
        server.port, server.http, server.ws = port, f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    """Open to everybody."""
    with running_gateway(shared_redis_url, heartbeat_seconds="1") as server:
        yield server
        assert "Traceback" not in server.output()


@pytest.fixture(scope="module")
def guarded(shared_redis_url: str) -> Iterator[Server]:
    """Asks for tokens."""
    with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET) as server:
        yield server
        assert "Traceback" not in server.output()
        assert "eyJ" not in server.output()


@pytest.fixture
def make_context(chromium: Browser) -> Iterator[Callable[[int], BrowserContext]]:
    """Makes browsers of their own: 0 with all transports, 1 without WebSocket, 2 without SSE either."""
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


Open = Callable[..., Page]


def open_in(context: BrowserContext, server: Server, channels: list[str] | None = None, **options: Any) -> Page:
    page = context.new_page()
    page.goto(f"{server.http}/openapi.json")  # any document of this origin
    page.evaluate(PAGE)
    if channels is not None:
        begin(page, channels, **options)
    return page


@pytest.fixture
def open_page(context: BrowserContext) -> Open:
    return partial(open_in, context)


def begin(page: Page, channels: list[str], **options: Any) -> None:
    page.evaluate("([channels, options]) => begin(channels, options)", [channels, options])


def wait_live(page: Page) -> None:
    page.wait_for_function("feed.status === 'live'")


def wait_for_log(page: Page, channel: str, ids: list[str]) -> None:
    """Wait until the page has so many events of a channel, and see that they are those of the ledger."""
    page.wait_for_function("([channel, count]) => (log[channel] ?? []).length >= count", arg=[channel, len(ids)])

    assert page.evaluate("log")[channel] == ids
    assert page.evaluate("gaps") == []


def transport(page: Page) -> int:
    """0 WebSocket, 1 SSE, 2 long polling: what the client remembers."""
    found: int = page.evaluate("[2, 1].find((level) => localStorage[`notify ${location.origin}/${level}`] > Date.now()) ?? 0")
    return found


def test_a_job_in_three_lines(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    page = open_page(gateway)
    page.evaluate(
        """(channel) => {
        window.seen = [];
        const feed = connect("/", { channels: [channel] });
        feed.on("progress", (event) => seen.push(event.data.percent));
        window.last = feed.done(channel);
        window.feed = feed;
    }""",
        channel,
    )
    wait_live(page)
    for percent in (10, 50, 90):
        ledger.publish(channel, "progress", {"percent": percent})
    id = ledger.publish(channel, "completed", {"url": "/files/42"}, final=True)

    last = page.evaluate("last")
    assert page.evaluate("seen") == [10, 50, 90]
    assert last == {"type": "completed", "data": {"url": "/files/42"}, "final": True, "channel": channel, "id": id}


def test_a_reload_in_the_middle_and_after_the_end(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    page = open_page(gateway, [channel])
    ledger.publish(channel)
    wait_for_log(page, channel, ledger.ids[channel])
    page.reload()
    page.evaluate(PAGE)
    begin(page, [channel])
    wait_live(page)
    middle = page.evaluate("log")
    ledger.publish(channel)
    ledger.publish(channel, "completed", final=True)
    wait_for_log(page, channel, ledger.ids[channel])
    page.reload()
    page.evaluate(PAGE)
    begin(page, [channel])
    wait_live(page)

    assert middle == {channel: ledger.ids[channel][:1]}
    assert page.evaluate("log") == {channel: ledger.ids[channel][-1:]}
    assert page.evaluate("(channel) => feed.done(channel).then((event) => event.id)", channel) == ledger.ids[channel][-1]


NATIVE = """(channel) => {
    window.log = {};
    window.gaps = [];
    const source = new EventSource(`/sse?channel=${channel}&since=0`);
    source.onmessage = ({ data }) => { const event = JSON.parse(data); (log[event.channel] ??= []).push(event.id); };
    source.addEventListener("gap", ({ data }) => gaps.push(JSON.parse(data).channel));
}"""


def test_a_gateway_that_is_killed_and_another_in_its_place(
    make_context: Callable[[int], BrowserContext], shared_redis_url: str, ledger: Ledger, channel: str
) -> None:
    port = free_port()
    ledger.publish(channel)
    with gateway_on(port, shared_redis_url) as server:
        pages = [open_in(make_context(level), server, [channel], since="0") for level in range(3)]
        native = open_in(make_context(0), server)
        native.evaluate(NATIVE, channel)
        for page in (*pages, native):
            page.set_default_timeout(30_000)  # the longest wait before it comes back is 20 s
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


@pytest.mark.parametrize("level", [0, 1], ids=["websocket", "sse"])
def test_offline_and_online(
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


def connections(server: Server) -> int:
    """How many streams the gateway has open."""
    text = httpx.get(f"{server.http}/metrics").text
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("gateway_connections{"))


def wait_until(look: Callable[[], int], number: int) -> None:
    deadline = time.monotonic() + SECONDS
    while (found := look()) != number:
        assert time.monotonic() < deadline, f"{found}, not {number}"
        time.sleep(0.02)


def wait_connections(server: Server, number: int) -> None:
    wait_until(lambda: connections(server), number)


def test_tabs_share_one_connection_and_the_next_one_takes_over(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    wait_connections(gateway, 0)
    other = f"{channel}:other"
    late = f"{channel}:late"
    for _ in range(3):
        ledger.publish(channel)
        ledger.publish(other)
    first = open_page(gateway, [channel], since="0")
    wait_live(first)
    second = open_page(gateway, [channel, other], since="0")
    third = open_page(gateway, [other])
    for page in (second, third):
        wait_live(page)
    wait_connections(gateway, 1)
    ledger.publish(channel)
    ledger.publish(other)
    wait_for_log(first, channel, ledger.ids[channel])
    wait_for_log(second, channel, ledger.ids[channel])
    wait_for_log(second, other, ledger.ids[other])
    wait_for_log(third, other, ledger.ids[other][2:])

    first.close()
    for _ in range(5):
        ledger.publish(channel)
        ledger.publish(other)
    second.evaluate("(late) => feed.follow(late)", late)
    ledger.publish(late)
    wait_for_log(second, channel, ledger.ids[channel])
    wait_for_log(second, other, ledger.ids[other])
    wait_for_log(third, other, ledger.ids[other][2:])
    wait_for_log(second, late, ledger.ids[late])
    wait_connections(gateway, 1)

    second.evaluate("feed.close()")
    ledger.publish(other, "completed", final=True)
    wait_for_log(third, other, ledger.ids[other][2:])
    wait_connections(gateway, 1)


def test_tabs_that_come_and_go_under_load_lose_nothing(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    pages = [open_page(gateway, [channel], since="0") for _ in range(2)]
    for turn in range(3):
        for _ in range(15):
            ledger.publish(channel)
        pages.append(open_page(gateway, [channel], since="0"))
        for _ in range(15):
            ledger.publish(channel)
        if turn != 1:
            pages.pop(0).close()
        else:
            pages.pop(0).evaluate("feed.close()")

    for page in pages:
        wait_for_log(page, channel, ledger.ids[channel])


def subscriptions(server: Server) -> int:
    """How many channels the clients of the gateway follow."""
    text = httpx.get(f"{server.http}/metrics").text
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("gateway_subscriptions "))


@pytest.mark.parametrize("warned", [True, False], ids=["closed", "crashed"])
def test_what_only_a_tab_that_is_gone_followed_is_followed_no_more(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str, warned: bool
) -> None:
    wait_connections(gateway, 0)
    pages = [open_page(gateway, [f"{channel}:{number}"]) for number in range(3)]
    for page in pages:
        wait_live(page)
    wait_connections(gateway, 1)
    wait_until(lambda: subscriptions(gateway), 3)
    pages[1].close(run_before_unload=warned)
    wait_until(lambda: subscriptions(gateway), 2)
    ledger.publish(f"{channel}:2")

    wait_for_log(pages[2], f"{channel}:2", ledger.ids[f"{channel}:2"])


def test_tabs_of_different_users_share_nothing(open_page: Open, guarded: Server, ledger: Ledger, channel: str) -> None:
    wait_connections(guarded, 0)
    ann = open_page(guarded, [channel], token=make_token("ann", subscribe=["jobs:*"]))
    bob = open_page(guarded, [channel], token=make_token("bob", subscribe=["jobs:*"]))
    twin = open_page(guarded, [channel], token=make_token("bob", subscribe=["jobs:*"]))
    for page in (ann, bob, twin):
        wait_live(page)
    ledger.publish(channel)

    for page in (ann, bob, twin):
        wait_for_log(page, channel, ledger.ids[channel])
    wait_connections(guarded, 2)


# Holds the lock, tells the first tab that asks that it has all of the channel, and is put to sleep.
SLEEPER = """([channel, cursor]) => {
    const name = `notify ${location.origin}/`;
    const bus = new BroadcastChannel(name);
    bus.onmessage = ({ data }) => {
        if (data.channels[channel] !== cursor) return;
        bus.postMessage({ from: false, status: "live", channels: { [channel]: cursor } });
        bus.close();
    };
    return new Promise((held) => navigator.locks.request(name, () => new Promise(() => held())));
}"""


def test_a_leader_that_was_put_to_sleep_is_left(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    wait_connections(gateway, 0)
    cursor = ledger.publish(channel)
    sleeper = open_page(gateway)
    sleeper.evaluate(SLEEPER, [channel, cursor])
    page = open_page(gateway, [channel], quiet=100)
    wait_live(page)
    wait_connections(gateway, 0)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])


# Holds the lock, and has something to say.
LEADER = """() => {
    const name = `notify ${location.origin}/`;
    const bus = new BroadcastChannel(name);
    window.say = (status, channels) => bus.postMessage({ from: false, status, channels });
    return new Promise((held) => navigator.locks.request(name, () => new Promise(() => held())));
}"""


def test_a_tab_that_was_waiting_says_that_the_leader_to_which_it_listens_is_live(
    make_context: Callable[[int], BrowserContext], gateway: Server, channel: str
) -> None:
    context = make_context(1)
    leader = open_in(context, gateway)
    leader.evaluate(LEADER)
    context.route("**/sse?*", lambda route: route.fulfill(status=503, headers={"retry-after": "60"}))
    page = open_in(context, gateway, [channel], since="0")
    page.wait_for_function("feed.status === 'waiting'")
    leader.evaluate("(channel) => say('live', { [channel]: '0' })", channel)

    wait_live(page)


def test_a_tab_whose_leader_may_not_read_a_channel_connects_by_itself(
    open_page: Open, guarded: Server, ledger: Ledger, channel: str
) -> None:
    wait_connections(guarded, 0)
    leader = open_page(guarded, [channel], token=make_token("eve", subscribe=[channel]))
    wait_live(leader)
    other = f"{channel}:other"
    page = open_page(guarded, [channel, other], token=make_token("eve", subscribe=["jobs:*"]))
    wait_live(page)
    for name in (channel, other, channel, other):
        ledger.publish(name)

    wait_for_log(page, channel, ledger.ids[channel])
    wait_for_log(page, other, ledger.ids[other])
    wait_for_log(leader, channel, ledger.ids[channel])
    assert leader.evaluate("feed.status") == "live"


TOKENS = "(tokens) => (window.asked = 0, () => tokens[Math.min(asked++, tokens.length - 1)])"


@pytest.mark.parametrize("level", [0, 1, 2], ids=["websocket", "sse", "polling"])
def test_a_token_that_expires_is_renewed(
    make_context: Callable[[int], BrowserContext], guarded: Server, ledger: Ledger, channel: str, level: int
) -> None:
    page = open_in(make_context(level), guarded)
    tokens = [make_token("ann", subscribe=["jobs:*"], exp=time.time() + life) for life in (3, 60)]
    page.evaluate(f"([channel, tokens]) => begin([channel], {{ token: ({TOKENS})(tokens), since: '0' }})", [channel, tokens])
    wait_live(page)
    deadline = time.monotonic() + 3.5
    while time.monotonic() < deadline:
        ledger.publish(channel)
        page.wait_for_timeout(100)

    wait_for_log(page, channel, ledger.ids[channel])
    assert page.evaluate("asked") >= 2
    # Over an open WebSocket nobody notices.
    assert ("waiting" in page.evaluate("states")) == (level > 0)


def test_a_token_that_is_refused_is_asked_for_once_more(open_page: Open, guarded: Server, channel: str) -> None:
    page = open_page(guarded)
    bad = make_token("ann", subscribe=["jobs:*"], key="a-key-of-somebody-else-altogether-really")
    page.evaluate(f"([channel, tokens]) => begin([channel], {{ share: false, token: ({TOKENS})(tokens) }})", [channel, [bad]])
    page.wait_for_function("feed.status === 'stopped'")

    assert page.evaluate("problem.status") == 401
    assert page.evaluate("asked") == 2


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


def test_websocket_blocked_then_sse_blocked(
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


def test_what_is_unfollowed_and_followed_at_once_begins_anew(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    """What was still on the way for the first time does not stand before what is asked for the second time."""
    for _ in range(3):
        ledger.publish(channel)
    page = open_page(gateway)
    page.evaluate(SLOW_WEBSOCKET)
    begin(page, [channel], since="0")
    wait_for_log(page, channel, ledger.ids[channel])
    wait_live(page)
    page.evaluate("came = 0")
    ledger.publish(channel)
    page.wait_for_function("came")
    page.evaluate("(channel) => { feed.unfollow(channel); feed.follow(channel); }", channel)

    wait_for_log(page, channel, ledger.ids[channel][:3] + ledger.ids[channel])


def test_subscribing_and_unsubscribing_inside_handlers(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    page = open_page(gateway, [channel])
    wait_live(page)
    page.evaluate(
        """(channel) => {
        window.calls = [];
        const off = feed.on("progress", () => { calls.push("once"); off(); removed(); feed.on("progress", () => calls.push("new")); });
        const removed = feed.on("progress", () => calls.push("removed"));
        feed.on("progress", () => { throw new Error("a handler's own"); });
        feed.on("progress", () => calls.push("always"));
        feed.on("next", () => { feed.unfollow(channel); feed.follow(channel + ":next"); });
        addEventListener("error", (event) => { calls.push(event.message); event.preventDefault(); });
    }""",
        channel,
    )
    for type in ("progress", "progress", "next"):
        ledger.publish(channel, type)
    page.wait_for_function("(channel) => log[channel]?.length === 3", arg=channel)
    ledger.publish(channel)
    ledger.publish(f"{channel}:next")
    wait_for_log(page, f"{channel}:next", ledger.ids[f"{channel}:next"])

    error = "Uncaught Error: a handler's own"
    assert page.evaluate("calls")[:2] == ["once", error]
    assert page.evaluate("calls").count("removed") == 0
    assert page.evaluate("calls").count("always") == 3
    assert page.evaluate("(channel) => log[channel]", channel) == ledger.ids[channel][:3]


def test_a_loop_over_all_events_ends_when_the_feed_is_closed(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    page = open_page(gateway, [channel])
    page.evaluate("""() => {
        window.looped = (async () => {
            const ids = [];
            for await (const event of feed) {
                ids.push(event.id);
                if (event.final) feed.close();
            }
            return ids;
        })();
    }""")
    wait_live(page)
    ledger.publish(channel)
    ledger.publish(channel, "completed", final=True)

    assert page.evaluate("looped") == ledger.ids[channel]
    assert page.evaluate("feed.status") == "closed"
    assert page.evaluate("(channel) => feed.done(channel).catch((problem) => problem.message)", channel) == "closed"


def test_a_tab_goes_on_where_all_tabs_together_follow_too_much(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    pages = [open_page(gateway, [f"{channel}:{tab}:{number}" for number in range(60)]) for tab in range(2)]
    for page in pages:
        wait_live(page)
    wait_connections(gateway, 1)
    pages.append(open_page(gateway, [f"{channel}:2:{number}" for number in range(60)]))
    wait_live(pages[2])
    wait_until(lambda: connections(gateway) > 1, True)  # 180 channels, of 128 that one connection may have

    for tab, page in enumerate(pages):
        ledger.publish(f"{channel}:{tab}:7")
        wait_for_log(page, f"{channel}:{tab}:7", ledger.ids[f"{channel}:{tab}:7"])


def test_a_clock_that_is_fast_asks_for_no_token_before_its_time(open_page: Open, guarded: Server, channel: str) -> None:
    page = open_page(guarded)
    page.clock.install(time=time.time() + 3_600)
    page.evaluate(
        f"([channel, tokens]) => begin([channel], {{ token: ({TOKENS})(tokens) }})", [channel, [make_token(subscribe=["jobs:*"])]]
    )
    wait_live(page)
    page.clock.run_for(10_000)

    assert page.evaluate("asked") == 1


def test_where_the_storage_is_full_it_connects_all_the_same(
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


def test_who_comes_back_to_a_tab_does_not_shorten_what_the_gateway_asks_for(
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


def test_since_may_be_a_number(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    for _ in range(3):
        ledger.publish(channel)
    page = open_page(gateway, [channel], since=0)

    wait_for_log(page, channel, ledger.ids[channel])


def test_what_was_trimmed_is_a_gap(open_page: Open, gateway: Server, ledger: Ledger, publisher: Publisher, channel: str) -> None:
    first = ledger.publish(channel)
    for _ in range(4):
        publisher.publish(channel, "progress", None, keep=2)
    page = open_page(gateway, [channel], since=first)
    wait_live(page)

    assert page.evaluate("gaps") == [channel]
    assert len(page.evaluate("log")[channel]) == 2


def test_a_final_event_that_is_there_already(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    id = ledger.publish(channel, "completed", final=True)
    page = open_page(gateway)

    assert page.evaluate("(channel) => connect('/').done(channel).then((event) => event.id)", channel) == id


@pytest.mark.parametrize(("name", "file"), [("client.js", "client.min.js"), ("job-progress.js", "job-progress.js")])
def test_the_served_file(gateway: Server, name: str, file: str) -> None:
    answer = httpx.get(f"{gateway.http}/{name}")
    again = httpx.get(f"{gateway.http}/{name}", headers={"if-none-match": answer.headers["etag"]})

    assert answer.content == (CLIENT / file).read_bytes()
    assert answer.headers["content-type"].startswith("text/javascript")
    assert again.status_code == 304
