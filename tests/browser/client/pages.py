"""The script that the test pages run, and functions that read its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from notify_client import Publisher
from playwright.sync_api import BrowserContext, Page

from tests.support.figures import figures_now
from tests.support.servers import Server, running_gateway

Open = Callable[..., Page]

SECONDS = 30.0

# Every test page runs this first. `log` holds the ids that the handlers received on each channel, in order.
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

# A WebSocket that always fails, as behind a proxy that does not support upgrades.
NO_WEBSOCKET = "window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' })) } close() {} };"

# A slow network: a message reaches the page half a second after the browser has it. `came` counts the events the browser has.
SLOW_WEBSOCKET = """window.WebSocket = class extends WebSocket {
    set onmessage(handler) {
        super.onmessage = (message) => {
            came += message.data.includes('"id"');
            setTimeout(() => this.readyState === WebSocket.OPEN && handler(message), 500);
        };
    }
}; window.came = 0"""

# A network on which what the gateway sends waits until `release()`. `came` counts all of it, and `events` the events.
HELD_ANSWERS = """() => {
    const released = new Promise((resolve) => (window.release = resolve));
    window.WebSocket = class extends WebSocket {
        set onmessage(handler) {
            super.onmessage = (message) => {
                came++;
                events += message.data.includes('"id"');
                released.then(() => this.readyState === WebSocket.OPEN && handler(message));
            };
        }
    };
    window.came = window.events = 0;
}"""


class Ledger:
    """Publishes as a worker does, and keeps the acknowledged ids by channel."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.ids: dict[str, list[str]] = {}

    def publish(self, channel: str, type: str = "progress", data: Any = None, *, final: bool = False) -> str:
        id = self.publisher.publish(channel, type, data, final=final)
        assert id is not None
        self.ids.setdefault(channel, []).append(str(id))
        return str(id)


@contextmanager
def gateway_on(port: int, redis_url: str, drain_seconds: str = "0") -> Iterator[Server]:
    with running_gateway(redis_url, "--port", str(port), wait=False, drain_seconds=drain_seconds) as server:
        server.port, server.http, server.ws = port, f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
        server.wait_ready()
        yield server


def open_in(context: BrowserContext, server: Server, channels: list[str] | None = None, **options: Any) -> Page:
    page = context.new_page()
    page.goto(f"{server.http}/openapi.json")  # any document of this origin
    page.evaluate(PAGE)
    if channels is not None:
        begin(page, channels, **options)
    return page


def begin(page: Page, channels: list[str], **options: Any) -> None:
    page.evaluate("([channels, options]) => begin(channels, options)", [channels, options])


def wait_live(page: Page) -> None:
    page.wait_for_function("feed.status === 'live'")


def wait_for_log(page: Page, channel: str, ids: list[str]) -> None:
    """Wait until the page has as many events of a channel, and check that they are these, without a gap."""
    page.wait_for_function("([channel, count]) => (log[channel] ?? []).length >= count", arg=[channel, len(ids)])

    assert page.evaluate("log")[channel] == ids
    assert page.evaluate("gaps") == []


def transport(page: Page) -> int:
    """The level of transport that the client has stored: 0 WebSocket, 1 SSE, 2 long polling."""
    found: int = page.evaluate("[2, 1].find((level) => localStorage[`notify ${location.origin}/${level}`] > Date.now()) ?? 0")
    return found


def wait_until(look: Callable[[], float], number: int) -> None:
    deadline = time.monotonic() + SECONDS
    while (found := look()) != number:
        assert time.monotonic() < deadline, f"{found}, not {number}"
        time.sleep(0.02)


def wait_connections(server: Server, number: int) -> None:
    wait_until(lambda: figures_now(server.http)["gateway_connections"], number)
