"""The demo page in Chromium: after a reload, in two tabs, with the keyboard, on a phone, and without a message on the console."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from gateway.pages.assets import HERE
from gateway.pages.workers import KINDS
from tests.browser.conftest import CHROMIUM, LEFT_OF_LETTER
from tests.conftest import need

ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
SPEED = 4  # a transcode takes about 3 s, a payment 2 s
RIGHT_AT_ONCE = 1_000  # milliseconds, from the reload on; it takes about 100 on an idle machine
RELOADS = 10  # a busy machine only makes them slower: the quickest tells

MakeContext = Callable[..., BrowserContext]

# A violation of the Content-Security-Policy is an event of the document, and an error on the console.
SPY = "document.addEventListener('securitypolicyviolation', e => console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI))"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    need(CHROMIUM, "Chromium: apt-get install chromium")
    code = f"from gateway.pages.demo import run_demo; run_demo(0, speed={SPEED})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=ENVIRON) as process:
        try:
            found = None
            while found is None:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line
                found = re.search(r"Open\s+(\S+)", line)
            yield found[1]
        finally:
            process.terminate()


@pytest.fixture
def said() -> list[str]:
    """Errors and warnings of the pages; there must be none at the end of a test."""
    return []


@pytest.fixture
def make_context(chromium: Browser, said: list[str]) -> Iterator[MakeContext]:
    contexts = []
    script = (HERE / "demo.js").read_text()
    patient = script.replace("5_000", "60_000")  # the plug stays out, and the line that tells of it stays, until the test has looked
    assert patient.count("60_000") == 2

    def make(**options: Any) -> BrowserContext:
        context = chromium.new_context(**options)
        context.set_default_timeout(30_000)
        context.add_init_script(SPY)
        context.route("**/demo/demo.js", lambda route: route.fulfill(content_type="text/javascript", body=patient))
        context.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        context.on("weberror", lambda error: said.append(str(error.error)))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def page(make_context: MakeContext, url: str) -> Page:
    page = make_context().new_page()
    page.goto(url)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    return page


def start(page: Page, kind: str) -> str:
    """Start a job by its button; its channel."""
    with page.expect_response("**/demo/jobs") as response:
        page.click(f"[data-kind={kind}]")
    channel: str = response.value.json()["job"]
    return channel


def take(page: Page, kind: str) -> str:
    """Start a job by its button, and leave its work to the test, because a worker does not wait until a busy machine's page has looked."""
    channel = f"jobs:{kind}-{secrets.token_hex(3)}"
    page.route("**/demo/jobs", lambda route: route.fulfill(status=202, json={"job": channel}), times=1)
    work(page, channel, "queued", "Waiting for a worker", 0)
    assert start(page, kind) == channel
    return channel


def work(page: Page, channel: str, type: str, text: str, percent: int) -> None:
    """Publish an event of a job as its worker would."""
    kind = channel.removeprefix("jobs:").partition("-")[0]
    data = {"title": KINDS[kind][0], "text": text, "percent": percent}
    event = {"channel": channel, "type": type, "data": data, "final": type == "completed"}
    assert httpx.post(f"{page.url.split('#')[0]}publish", json=event, timeout=30).status_code == 200


def card(page: Page, channel: str) -> Locator:
    return page.locator(f'[data-channel="{channel}"]')


def percent(page: Page, channel: str) -> float:
    value: float = card(page, channel).locator("progress").evaluate("bar => bar.position < 0 ? -1 : bar.value")
    return value


def states_after_reload(page: Page, channel: str, state: str) -> list[str]:
    """Reload the page; every state that the job's card has shown until it shows the right one, which must be soon."""
    for _ in range(RELOADS):
        page.reload(wait_until="commit")
        seen: list[str]
        seen, took = page.evaluate(
            """([channel, state]) => new Promise((resolve) => {
                const seen = [];
                const look = () => {
                    const now = document.querySelector(`[data-channel="${channel}"]`)?.dataset.state;
                    if (now !== undefined && now !== "waiting" && now !== seen.at(-1)) seen.push(now);
                    if (now === state || performance.now() > 30_000) resolve([seen, performance.now()]);
                    else setTimeout(look, 1);
                };
                look();
            })""",
            [channel, state],
        )
        if took < RIGHT_AT_ONCE or seen != [state]:
            return seen
    raise AssertionError(f"{took:.0f} ms after the reload: {seen}")


def test_a_job_is_right_at_once_after_a_reload_in_the_middle_and_after_the_end(page: Page) -> None:
    channel = take(page, "payment")
    work(page, channel, "started", "Asking the bank", 20)
    expect(card(page, channel)).to_have_attribute("data-state", "running")

    assert states_after_reload(page, channel, "running") == ["running"]
    assert percent(page, channel) == 20
    work(page, channel, "completed", "Paid 49.00 EUR", 100)
    expect(card(page, channel)).to_have_attribute("data-state", "done")
    elapsed = card(page, channel).locator(".elapsed").text_content()

    assert states_after_reload(page, channel, "done") == ["done"]
    assert percent(page, channel) == 100
    assert card(page, channel).locator(".text").text_content() == "Paid 49.00 EUR"
    assert card(page, channel).locator(".elapsed").text_content() == elapsed


def test_a_failure_and_a_retry_are_shown_and_said(page: Page) -> None:
    payment, broken = take(page, "payment"), start(page, "import")

    expect(card(page, payment)).to_have_attribute("data-state", "queued")
    for type, state, text in (
        ("started", "running", "Asking the bank, attempt 1 of 3"),
        ("retrying", "retrying", "The bank did not answer: next attempt in 3 s"),
        ("started", "running", "Asking the bank, attempt 2 of 3"),
        ("completed", "done", "Paid 49.00 EUR"),
    ):
        work(page, payment, type, text, 50)
        expect(card(page, payment)).to_have_attribute("data-state", state)
        expect(card(page, payment).locator(".text")).to_have_text(text)
    expect(card(page, broken)).to_have_attribute("data-state", "failed")
    assert percent(page, broken) == 62
    said = page.locator("[aria-live=polite] p").all_text_contents()
    assert [line for line in said if line.startswith("Take a payment")] == [
        "Take a payment: Queued. Waiting for a worker",
        "Take a payment: Running. Asking the bank, attempt 1 of 3",
        "Take a payment: Retrying. The bank did not answer: next attempt in 3 s",
        "Take a payment: Running. Asking the bank, attempt 2 of 3",
        "Take a payment: Done. Paid 49.00 EUR",
    ]
    assert "Import a file: Failed. Line 1,247: there is no country 'Atlantis'" in said
    others = page.get_by_role("status").all()
    assert len(others) > 1
    assert {status.get_attribute("aria-live") for status in others} == {"off"}  # one voice is enough


def test_a_second_tab_shows_the_same_job(page: Page, make_context: MakeContext, url: str) -> None:
    channel = start(page, "report")
    with page.context.expect_page() as opened:
        card(page, channel).locator(".tab").click()
    second, stranger = opened.value, make_context().new_page()
    stranger.goto(f"{url}/#{channel}")

    assert second.url == f"{url}/#{channel}"
    for tab in (second, stranger):
        expect(card(tab, channel)).to_have_attribute("data-state", re.compile("running|done"))
        expect(card(tab, channel)).to_have_class(re.compile(r"\basked\b"))
    other = start(page, "import")
    expect(card(second, other)).to_be_visible()
    assert card(stranger, other).count() == 0
    for tab in (page, second, stranger):
        expect(card(tab, channel)).to_have_attribute("data-state", "done")


def test_what_came_while_the_plug_was_pulled_is_caught_up(page: Page) -> None:
    channel = take(page, "report")
    work(page, channel, "started", "Step 1", 0)
    expect(card(page, channel)).to_have_attribute("data-state", "running")

    page.click("#drop")
    expect(page.locator("#connection")).to_have_text(re.compile(r"Reconnecting in \d s"))
    work(page, channel, "progress", "Step 2", 50)
    work(page, channel, "completed", "Sales report, 24 pages", 100)
    assert card(page, channel).locator(".text").text_content() == "Step 1"
    page.click("#drop")

    expect(card(page, channel)).to_have_attribute("data-state", "done")
    expect(page.locator("#connection")).to_have_text(re.compile(r"Live, \d missed events? caught up"))
    ids = page.evaluate("[...document.querySelectorAll('#log code')].map(line => JSON.parse(line.textContent).id).reverse()")
    assert ids == sorted(set(ids))


def test_what_the_log_no_longer_holds_is_said(page: Page, url: str) -> None:
    def publish(number: int) -> None:
        event = {"channel": "jobs:trimmed", "type": "progress", "data": {"text": f"number {number}"}, "keep": 1}
        assert httpx.post(f"{url}/publish", json=event).status_code == 200

    publish(1)
    page.goto(f"{url}/#jobs:trimmed")
    expect(card(page, "jobs:trimmed").locator(".text")).to_have_text("number 1")
    page.click("#drop")
    publish(2)
    publish(3)
    page.click("#drop")

    expect(card(page, "jobs:trimmed").locator(".text")).to_have_text("number 3")
    expect(card(page, "jobs:trimmed").locator(".gap")).to_be_visible()


def test_a_job_whose_log_is_gone_is_shown_and_said_to_be_unknown(page: Page, url: str) -> None:
    event = {"channel": "jobs:gone", "type": "progress", "data": {"title": "Gone", "text": "Half way"}}
    assert httpx.post(f"{url}/publish", json=event).status_code == 200
    page.goto(f"{url}/#jobs:gone")
    expect(card(page, "jobs:gone").locator(".text")).to_have_text("Half way")
    page.click("#drop")
    assert httpx.post(f"{url}/publish", json=event | {"ttl": 1}).status_code == 200
    page.wait_for_timeout(1_500)  # the log expires
    page.click("#drop")

    expect(card(page, "jobs:gone").locator(".label")).to_have_text("Unknown")
    expect(page.locator("#said")).to_contain_text("Gone: Unknown. Redis has lost this job's log.")


def test_a_job_asked_for_later_of_which_nothing_is_known_is_said_to_have_no_events(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("Live")
    page.evaluate("location.hash = 'jobs:unknown'")

    expect(card(page, "jobs:unknown").locator(".label")).to_have_text("No events")


def test_all_can_be_done_with_the_keyboard(page: Page) -> None:
    while card(page, "jobs:hello").count():  # of another test; its log expires within a second
        page.reload()
        expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.kind") == "import":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")

    assert outline == "solid2px"
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator(".card[data-state=failed]")).to_have_count(2)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "remove"
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(1)
    assert page.evaluate("document.activeElement.className") == "remove"
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "jobs-title"


def test_what_can_be_done_with_a_job_is_named_by_the_job(page: Page) -> None:
    cards = [card(page, take(page, "payment")), card(page, take(page, "report"))]

    for found, title in zip(cards, ("Take a payment", "Build a report"), strict=True):
        expect(found.get_by_role("link")).to_have_accessible_name(f"Second tab for {title} (opens in a new tab)")
        expect(found.get_by_role("button")).to_have_accessible_name(f"Remove {title}")


def test_markup_in_an_event_is_text(page: Page, url: str) -> None:
    text = '<img src=x onerror="alert(1)"><b>bold</b>'
    event = {"channel": "jobs:hello", "type": "message", "data": {"text": text, "title": text}, "ttl": 1}
    assert httpx.post(f"{url}/publish", json=event).status_code == 200

    expect(card(page, "jobs:hello").locator(".text")).to_have_text(text)
    assert card(page, "jobs:hello").locator(".title").text_content() == text
    assert page.locator(".card img, .card b, #log img").count() == 0


def test_a_long_title_is_cut_and_one_from_right_to_left_is_laid_out_so(page: Page, url: str) -> None:
    for title in ("W" * 400, "تقرير (2026)"):
        assert httpx.post(f"{url}/publish", json={"channel": "jobs:hello", "data": {"title": title}, "ttl": 1}).status_code == 200
        found = card(page, "jobs:hello").locator(".title")
        expect(found).to_have_text(title)

        assert found.evaluate("e => e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight)") < 3.5
    first, last = (found.evaluate(LEFT_OF_LETTER, at) for at in (0, len(title) - 1))
    assert last < first


def test_what_is_no_event_of_the_demo_is_shown_as_it_is(page: Page, url: str) -> None:
    for data, shown in (([1, {"a": None}], '[1,{"a":null}]'), (None, ""), (17, "17"), ({"percent": "x", "b": 1}, '{"percent":"x","b":1}')):
        assert httpx.post(f"{url}/publish", json={"channel": "jobs:hello", "type": "stage.two", "data": data, "ttl": 1}).status_code == 200

        expect(card(page, "jobs:hello").locator(".text")).to_have_text(shown)
        assert card(page, "jobs:hello").locator(".label").text_content() == "stage.two"
    assert re.fullmatch(r"\d\d:\d\d:\d\d", card(page, "jobs:hello").locator(".elapsed").text_content() or "")  # as in the list of events


def test_a_strange_store_and_a_job_that_is_forgotten_do_no_harm(page: Page) -> None:
    for value in ("{", '"x"', '["a b", 7, "jobs:forgotten"]'):
        page.evaluate("value => localStorage.setItem('notify-demo-jobs', value)", value)
        page.reload()
        expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        expect(page.locator('.card:not([data-channel="jobs:hello"])')).to_have_count(0)


def test_without_javascript_it_says_at_once_that_it_needs_that(make_context: MakeContext, url: str) -> None:
    page = make_context(java_script_enabled=False).new_page()
    page.goto(url)

    expect(page.locator("noscript p")).to_be_in_viewport()


def test_in_forced_colours_a_state_keeps_its_dot(make_context: MakeContext, url: str) -> None:
    page = make_context(forced_colors="active").new_page()
    page.goto(url)
    colour = "e => getComputedStyle(e).backgroundColor"

    assert page.locator("#connection .dot").evaluate(colour) != page.locator("body").evaluate(colour)


@pytest.mark.parametrize(("scheme", "size"), [("light", "100%"), ("dark", "100%"), ("light", "200%")])
def test_a_phone_needs_no_sideways_scrolling(make_context: MakeContext, url: str, scheme: str, size: str) -> None:
    page = make_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, reduced_motion="reduce").new_page()
    page.goto(url)
    page.evaluate("size => (document.documentElement.style.fontSize = size)", size)
    long = "x" * 100
    page.click("#start-all")
    event = {"channel": "jobs:hello", "type": "y" * 64, "data": {"text": long, "title": long}, "ttl": 1}
    assert httpx.post(f"{url}/publish", json=event).status_code == 200
    expect(page.locator(".card")).to_have_count(6)
    page.click("#drop")

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    widths = page.eval_on_selector_all(".card, .kind, #connection, .log, figure", "all => all.map(e => e.getBoundingClientRect().right)")
    assert max(widths) <= 360
    assert page.evaluate("document.getAnimations().length") == 0
