"""client.js shares one connection among tabs, without losing or repeating an event in any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from notify_client import Publisher
from playwright.sync_api import BrowserContext, Page, Route

from tests.browser.client.pages import Ledger, Open, begin, open_in, wait_connections, wait_for_log, wait_live, wait_until
from tests.support.figures import figures_now
from tests.support.servers import Server
from tests.support.tokens import make_token


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


@pytest.mark.parametrize("warned", [True, False], ids=["closed", "crashed"])
def test_a_channel_that_only_a_closed_tab_followed_is_unsubscribed(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str, warned: bool
) -> None:
    wait_connections(gateway, 0)
    pages = [open_page(gateway, [f"{channel}:{number}"]) for number in range(3)]
    for page in pages:
        wait_live(page)
    wait_connections(gateway, 1)
    wait_until(lambda: figures_now(gateway.http)["gateway_subscriptions"], 3)
    pages[1].close(run_before_unload=warned)
    wait_until(lambda: figures_now(gateway.http)["gateway_subscriptions"], 2)
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


def test_a_suspended_leader_is_replaced(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    wait_connections(gateway, 0)
    cursor = ledger.publish(channel)
    sleeper = open_page(gateway)
    sleeper.evaluate(SLEEPER, [channel, cursor])
    page = open_page(gateway, [channel], quiet=100)
    wait_live(page)
    wait_connections(gateway, 0)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])


def test_tabs_go_on_at_once_when_their_leader_goes_to_the_back_forward_cache(
    cache: BrowserContext, gateway: Server, ledger: Ledger, channel: str
) -> None:
    wait_connections(gateway, 0)
    leader = open_in(cache, gateway, [channel])
    wait_live(leader)
    pages = [open_in(cache, gateway, [channel]) for _ in range(2)]
    for page in pages:
        wait_live(page)
        page.set_default_timeout(10_000)  # shorter than the silence after which they would look for themselves
    wait_connections(gateway, 1)
    leader.evaluate("void addEventListener('pagehide', ({ persisted }) => (localStorage.persisted = persisted))")
    leader.goto(f"{gateway.http}/livez")
    ledger.publish(channel)

    assert pages[0].evaluate("localStorage.persisted") == "true"
    for page in pages:
        wait_for_log(page, channel, ledger.ids[channel])
    wait_connections(gateway, 1)


def test_a_page_that_comes_back_from_the_back_forward_cache_gets_what_it_missed(
    cache: BrowserContext, gateway: Server, ledger: Ledger, channel: str
) -> None:
    page = open_in(cache, gateway, [channel])
    wait_live(page)
    page.goto(f"{gateway.http}/livez")
    ledger.publish(channel)
    page.evaluate("history.back()")  # go_back() would wait for a load that does not come
    page.wait_for_function("location.pathname === '/openapi.json'")
    if not page.evaluate("'feed' in window"):
        pytest.skip("needs a Chromium that keeps a page which had a WebSocket, such as 156: apt-get install chromium")
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])


# Holds the lock, and has something to say.
LEADER = """() => {
    const name = `notify ${location.origin}/`;
    const bus = new BroadcastChannel(name);
    window.say = (status, channels) => bus.postMessage({ from: false, status, channels });
    window.pass = (message) => bus.postMessage(message);
    window.heard = [];
    bus.onmessage = ({ data }) => heard.push(data);
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


def test_a_tab_that_begins_at_0_does_not_listen_to_a_leader_that_was_told_of_a_gap(
    make_context: Callable[[int], BrowserContext], gateway: Server, ledger: Ledger, channel: str
) -> None:
    for _ in range(3):
        ledger.publish(channel)
    context = make_context(1)
    leader = open_in(context, gateway)
    leader.evaluate(LEADER)
    context.route("**/sse?*", lambda route: route.fulfill(status=503, headers={"retry-after": "2"}), times=1)
    page = open_in(context, gateway, [channel], since="0")
    page.wait_for_function("feed.status === 'waiting'")
    leader.evaluate("(channel) => say('live', { [channel]: '00' })", channel)
    id = ledger.publish(channel)
    leader.evaluate("(event) => pass(event)", {"type": "progress", "data": None, "channel": channel, "id": id})

    wait_for_log(page, channel, ledger.ids[channel])


def stream(*values: dict[str, Any]) -> Callable[[Route], None]:
    """Answers a request for an event stream with these values, and ends the stream."""
    return lambda route: route.fulfill(content_type="text/event-stream", body="".join(f"data: {json.dumps(value)}\n\n" for value in values))


def leader_and_listener(context: BrowserContext, gateway: Server, channel: str, cursor: str) -> tuple[Page, Page]:
    """A leading tab that never gets further than the cursor, and a tab that has followed the channel from 0 and listens to it."""
    wait_connections(gateway, 0)
    leader = open_in(context, gateway)
    leader.route("**/sse?*", stream({"op": "ready", "channels": {channel: cursor}}))
    begin(leader, [channel])
    leader.wait_for_function("states.includes('live')")
    page = open_in(context, gateway, [channel], since="0")
    page.wait_for_function("(channel) => !!log[channel]", arg=channel)
    wait_connections(gateway, 0)
    return leader, page


def test_a_gap_of_a_leader_that_stands_before_a_tab_is_none_for_that_tab(
    make_context: Callable[[int], BrowserContext], gateway: Server, ledger: Ledger, channel: str
) -> None:
    before, _, newest = (ledger.publish(channel) for _ in range(3))
    leader, page = leader_and_listener(make_context(1), gateway, channel, before)
    event = {"type": "progress", "data": None, "channel": channel, "id": newest}
    gap = {"op": "gap", "channel": channel}
    leader.route("**/sse?*", stream(gap, event, {"op": "ready", "channels": {channel: newest}}))
    leader.evaluate("dispatchEvent(new Event('online'))")  # ends its wait
    leader.wait_for_function("gaps.length")
    leader.unroute("**/sse?*")
    ledger.publish(channel)
    leader.evaluate("dispatchEvent(new Event('online'))")

    wait_for_log(page, channel, ledger.ids[channel])
    wait_connections(gateway, 1)


def test_a_gap_that_the_leader_and_another_tab_have_is_told_once_in_each(
    make_context: Callable[[int], BrowserContext], gateway: Server, ledger: Ledger, publisher: Publisher, channel: str
) -> None:
    cursor = ledger.publish(channel)
    leader, page = leader_and_listener(make_context(1), gateway, channel, cursor)
    for _ in range(2):
        newest = str(publisher.publish(channel, "progress", keep=1))
    leader.unroute("**/sse?*")
    leader.evaluate("dispatchEvent(new Event('online'))")
    wait_for_last = "([channel, id]) => log[channel]?.at(-1) === id"
    for tab in (leader, page):
        tab.wait_for_function(wait_for_last, arg=[channel, newest])
    wait_connections(gateway, 1)

    assert leader.evaluate("[log, gaps]") == [{channel: [newest]}, [channel]]
    assert page.evaluate("[log, gaps]") == [{channel: [cursor, newest]}, [channel]]


def test_a_tab_that_hears_nothing_of_its_leader_does_not_put_off_the_test_of_the_leaders_connection(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
    wait_connections(gateway, 0)
    cursor = ledger.publish(channel)
    leader = open_page(gateway)
    leader.evaluate(LEADER)
    page = open_page(gateway, [channel], quiet=100)
    wait_live(page)
    near = "([channel, cursor]) => { heard.length = 0; say('live', { [channel]: cursor }); }"
    for _ in range(2):  # it listens, and then hears something once more
        leader.evaluate(near, [channel, cursor])
        wait_connections(gateway, 0)
    leader.wait_for_function("heard.length")

    assert leader.evaluate("heard[0].rouse") is None


# Tokens that a test hands out with `answer()`.
ANSWERED = "() => new Promise((resolve) => (window.answer = resolve))"


def test_a_tab_that_can_listen_to_the_leader_before_its_token_comes_does_not_connect(
    open_page: Open, guarded: Server, ledger: Ledger, channel: str
) -> None:
    wait_connections(guarded, 0)
    cursor = ledger.publish(channel)
    leader, page = open_page(guarded), open_page(guarded)
    leader.evaluate(LEADER)
    token = make_token("ann", subscribe=["jobs:*"])
    page.evaluate(f"(channel) => begin([channel], {{ share: '', token: {ANSWERED} }})", channel)
    page.evaluate("(token) => answer(token)", token)
    wait_live(page)
    near = "([channel, cursor]) => say('live', { [channel]: cursor })"
    leader.evaluate(near, [channel, cursor])
    wait_connections(guarded, 0)
    page.evaluate("() => { answer = undefined; }")
    leader.evaluate("say('live', {})")  # it goes to the back/forward cache, as far as this tab can see
    page.wait_for_function("!!answer")
    leader.evaluate(near, [channel, cursor])
    page.evaluate("(token) => answer(token)", token)
    for _ in range(3):
        page.evaluate("fetch('/livez').then(() => {})")  # what would have been asked for is on its way before this

    wait_connections(guarded, 0)


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


def test_a_tab_goes_on_where_all_tabs_together_follow_too_much(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    pages = [open_page(gateway, [f"{channel}:{tab}:{number}" for number in range(60)]) for tab in range(2)]
    for page in pages:
        wait_live(page)
    wait_connections(gateway, 1)
    pages.append(open_page(gateway, [f"{channel}:2:{number}" for number in range(60)]))
    wait_live(pages[2])
    wait_until(lambda: figures_now(gateway.http)["gateway_connections"] > 1, True)  # 180 channels, of 128 that one connection may have

    for tab, page in enumerate(pages):
        ledger.publish(f"{channel}:{tab}:7")
        wait_for_log(page, f"{channel}:{tab}:7", ledger.ids[f"{channel}:{tab}:7"])
