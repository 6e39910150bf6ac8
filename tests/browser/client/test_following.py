"""client.js follows jobs: whatever happens meanwhile, a page receives exactly the events of the ledger."""

from __future__ import annotations

from notify_client import Publisher

from tests.browser.client.pages import (
    HELD_ANSWERS,
    PAGE,
    SLOW_WEBSOCKET,
    Ledger,
    Open,
    begin,
    wait_for_log,
    wait_live,
    wait_until,
)
from tests.support.figures import figures_now
from tests.support.servers import Server
from tests.support.tokens import make_token


def test_three_lines_follow_a_job_to_its_end(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
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


def test_a_page_that_is_reloaded_in_the_middle_or_after_the_end_gets_the_newest_event(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
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


def test_what_is_unfollowed_and_followed_at_once_begins_anew(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    """Events that are still under way for the first subscription are not delivered to the second one."""
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


def test_what_is_unfollowed_and_followed_before_the_first_answer_begins_anew(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
    """Of what the gateway sends for the first subscription nothing is delivered, because after it comes a hole."""
    wait_until(lambda: figures_now(gateway.http)["gateway_subscriptions"], 0)
    page = open_page(gateway)
    page.evaluate(HELD_ANSWERS)
    begin(page, [channel], since="now")
    page.wait_for_function("came === 2")  # pong and ready
    ledger.publish(channel)
    page.wait_for_function("events === 1")
    page.evaluate("(channel) => feed.unfollow(channel)", channel)
    wait_until(lambda: figures_now(gateway.http)["gateway_subscriptions"], 0)
    ledger.publish(channel)
    page.evaluate("(channel) => feed.follow(channel)", channel)
    wait_until(lambda: figures_now(gateway.http)["gateway_subscriptions"], 1)
    page.evaluate("release()")
    wait_live(page)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel][2:])


def test_what_is_followed_before_the_gateway_has_answered_brings_nothing_twice(
    open_page: Open, gateway: Server, ledger: Ledger, publisher: Publisher, channel: str
) -> None:
    first = ledger.publish(channel)
    kept = [str(publisher.publish(channel, "progress", None, keep=2)) for _ in range(4)][-2:]
    page = open_page(gateway)
    page.evaluate(HELD_ANSWERS)
    begin(page, [channel], since=first)
    page.wait_for_function("events === 2")
    page.evaluate("(other) => feed.follow(other)", f"{channel}:other")
    page.evaluate("release()")
    ledger.publish(f"{channel}:other")
    page.wait_for_function("(other) => log[other]?.length === 1", arg=f"{channel}:other")
    wait_live(page)

    assert page.evaluate("gaps") == [channel]
    assert page.evaluate("log")[channel] == kept


def test_what_is_followed_with_a_channel_that_is_refused_and_unfollowed_is_asked_for_again(
    open_page: Open, guarded: Server, ledger: Ledger, channel: str
) -> None:
    own, other = f"user:ann:{channel}", f"user:bob:{channel}"
    page = open_page(guarded)
    page.evaluate(HELD_ANSWERS)
    begin(page, [own, other], token=make_token("ann"))
    page.wait_for_function("came === 2")  # pong, and that the other channel is not allowed
    page.evaluate("(other) => feed.unfollow(other)", other)
    page.evaluate("release()")
    ledger.publish(own)

    wait_for_log(page, own, ledger.ids[own])


# Counts the WebSockets, and holds each back before it opens, until `release()`.
HELD = """() => {
    window.sockets = 0;
    const released = new Promise((resolve) => (window.release = resolve));
    window.WebSocket = class extends WebSocket {
        constructor(url) { super(url); sockets++; }
        set onopen(handler) { super.onopen = () => released.then(handler); }
    };
}"""


def test_what_is_followed_while_it_connects_does_not_make_it_connect_again(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
    page = open_page(gateway)
    page.evaluate(HELD)
    begin(page, [channel])
    page.wait_for_function("sockets === 1")
    others = [f"{channel}:{number}" for number in range(3)]
    for other in others:  # each in a task of its own
        page.evaluate("(other) => feed.follow(other)", other)
    page.evaluate("release()")
    wait_live(page)
    for each in (channel, *others):
        ledger.publish(each)
        wait_for_log(page, each, ledger.ids[each])

    assert page.evaluate("sockets") == 1


def test_what_is_followed_again_leaves_no_error_in_the_console(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    page = open_page(gateway, [channel])
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    wait_live(page)
    page.evaluate("(channel) => { feed.unfollow(channel); feed.follow(channel); }", channel)
    ledger.publish(channel)

    wait_for_log(page, channel, ledger.ids[channel])
    assert told == []


# `sent` has the commands that go over the WebSocket.
COUNTED = """() => {
    window.sent = [];
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (text) { sent.push(JSON.parse(text)); send.call(this, text); };
}"""


def test_what_is_followed_and_unfollowed_together_takes_one_command_each(
    open_page: Open, gateway: Server, ledger: Ledger, channel: str
) -> None:
    page = open_page(gateway)
    page.evaluate(COUNTED)
    begin(page, [channel])
    wait_live(page)
    page.evaluate("(channel) => { sent.length = 0; for (let i = 0; i < 100; i++) feed.follow(`${channel}:${i}`); }", channel)
    for number in (0, 99):
        ledger.publish(f"{channel}:{number}")
        wait_for_log(page, f"{channel}:{number}", ledger.ids[f"{channel}:{number}"])
    page.evaluate("(channel) => { for (let i = 0; i < 99; i++) feed.unfollow(`${channel}:${i}`); }", channel)
    ledger.publish(f"{channel}:0")
    ledger.publish(f"{channel}:99")
    wait_for_log(page, f"{channel}:99", ledger.ids[f"{channel}:99"])

    commands = [command for command in page.evaluate("sent") if command["op"] != "ping"]
    assert [(command["op"], len(command["channels"])) for command in commands] == [("subscribe", 100), ("unsubscribe", 99)]
    assert page.evaluate("log")[f"{channel}:0"] == ledger.ids[f"{channel}:0"][:1]


# Each 16 ms four rows come into view, and four go.
SCROLL = """async (channel) => {
    for (let i = 0; i < 500; i++) {
        feed.follow(`${channel}:${i}`);
        if (i >= 20) feed.unfollow(`${channel}:${i - 20}`);
        if (i % 4 === 3) await new Promise((resolve) => setTimeout(resolve, 16));
    }
}"""


def test_a_list_that_is_scrolled_fast_keeps_its_connection(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    page = open_page(gateway, [channel])
    wait_live(page)
    page.evaluate(SCROLL, channel)
    names = [channel, *(f"{channel}:{number}" for number in range(480, 500))]
    for name in names:
        ledger.publish(name)

    for name in names:
        wait_for_log(page, name, ledger.ids[name])
    assert page.evaluate("states") == ["live"]


def test_handlers_may_follow_and_unfollow(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
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


def test_a_final_event_that_is_there_already_is_not_waited_for(open_page: Open, gateway: Server, ledger: Ledger, channel: str) -> None:
    id = ledger.publish(channel, "completed", final=True)
    page = open_page(gateway)

    assert page.evaluate("(channel) => connect('/').done(channel).then((event) => event.id)", channel) == id
