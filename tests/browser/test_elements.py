"""``<job-progress>`` and ``useJob`` in Chromium, against a real gateway."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from notify_client import Publisher
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import CLIENT, LEFT_OF_LETTER
from tests.support.servers import Server

COMPONENT = """
    import { createElement, StrictMode } from "react";
    import { createRoot } from "react-dom/client";
    import { useJob } from "./react.js";

    function Job({ channel }) {
        const { status, event, progress, final, error } = useJob(channel);
        return createElement("p", { id: channel }, [status, event?.type, progress, final?.data.url, error?.message].join(" "));
    }
    const root = createRoot(document.body);
    window.show = (...channels) =>
        root.render(createElement(StrictMode, null, channels.map((channel, key) => createElement(Job, { channel, key }))));
"""


@pytest.fixture
def page(context: BrowserContext, gateway: Server) -> Page:
    page = context.new_page()
    page.goto(f"{gateway.http}/openapi.json")
    return page


def test_job_progress_shows_a_job_from_wherever_it_is(page: Page, publisher: Publisher) -> None:
    publisher.publish("jobs:1", "progress", {"percent": 40})
    page.evaluate("""async () => {
        document.body.innerHTML = '<job-progress channel="jobs:1">Film</job-progress><job-progress channel="jobs:2">Song</job-progress>';
        window.done = new Promise((resolve) => document.addEventListener("job-done", ({ detail }) => resolve(detail.data.url)));
        await import("/job-progress.js");
    }""")
    job, other = page.locator("job-progress").all()
    expect(job).to_have_attribute("state", "running")
    expect(job.locator("progress")).to_have_attribute("value", "40")
    expect(job.locator("[part=text]")).to_have_text("40 %")
    expect(other).to_have_attribute("state", "waiting")
    publisher.publish("jobs:1", "completed", {"url": "/files/1"}, final=True)
    publisher.publish("jobs:2", "failed", {"error": "no disk"}, final=True)

    expect(job).to_have_attribute("state", "done")
    expect(job.locator("progress")).to_have_attribute("value", "100")
    expect(other).to_have_attribute("state", "failed")
    expect(other.locator("[part=text]")).to_have_text("no disk")
    assert page.evaluate("done") == "/files/1"


def test_job_progress_says_what_happens_and_each_quarter_of_the_way(page: Page, publisher: Publisher) -> None:
    page.evaluate("""async () => {
        document.body.innerHTML = '<job-progress channel="jobs:7">Film</job-progress>';
        await import("/job-progress.js");
    }""")
    job = page.locator("job-progress")
    said = job.get_by_role("status")
    expect(said).to_have_text("Film: waiting")
    said.evaluate("""(element) => {
        window.said = [];
        new MutationObserver(() => window.said.push(element.textContent)).observe(element, { childList: true });
    }""")
    for percent in range(0, 101, 4):
        text = {"text": f"frame {percent}"} if percent > 60 else {}
        publisher.publish("jobs:7", "progress", {"percent": percent, **text})
        expect(job.locator("[part=text]")).to_have_text(f"frame {percent}" if text else f"{percent} %")
    publisher.publish("jobs:7", "failed", {"error": "no disk"}, final=True)
    expect(said).to_have_text("Film: failed, no disk")

    told = ["0 %", "25 %", "50 %", "75 %", "100 %", "failed, no disk"]
    assert page.evaluate("said") == [f"Film: {words}" for words in told]
    expect(said).to_have_attribute("aria-live", "polite")
    job.evaluate("""(element) => {
        element.setAttribute("aria-live", "off");
        element.setAttribute("channel", "jobs:8");
    }""")
    expect(said).to_have_attribute("aria-live", "off")


def test_job_progress_has_the_name_that_it_holds_now(page: Page, publisher: Publisher) -> None:
    publisher.publish("jobs:12", "progress", {"percent": 40})
    page.evaluate("""async () => {
        document.body.innerHTML = '<job-progress channel="jobs:12">Film</job-progress>';
        await import("/job-progress.js");
    }""")
    expect(page.get_by_role("progressbar", name="Film")).to_have_attribute("value", "40")
    page.evaluate("document.querySelector('job-progress').textContent = 'Holiday'")

    expect(page.get_by_role("progressbar", name="Holiday")).to_have_attribute("value", "40")


def test_job_progress_in_a_page_from_right_to_left_shows_its_text_as_it_is_written(page: Page, publisher: Publisher) -> None:
    publisher.publish("jobs:13", "progress", {"percent": 40})
    page.evaluate("""async () => {
        document.documentElement.dir = "rtl";
        document.body.innerHTML = '<job-progress channel="jobs:13">Film</job-progress>';
        await import("/job-progress.js");
    }""")
    text = page.locator("[part=text]")
    expect(text).to_have_text("40 %")

    assert text.evaluate(LEFT_OF_LETTER, 0) < text.evaluate(LEFT_OF_LETTER, len("40 %") - 1)


def test_job_progress_keeps_its_name_together_and_puts_a_long_text_below_it(page: Page, publisher: Publisher) -> None:
    publisher.publish("jobs:14", "progress", {"percent": 40})
    publisher.publish("jobs:15", "failed", {"error": "no space is left on the disk " * 10}, final=True)
    page.evaluate("""async () => {
        const show = (job) => `<job-progress channel="jobs:${job}"><i>The</i> <b>film</b></job-progress>`;
        document.body.innerHTML = show(14) + show(15);
        await import("/job-progress.js");
    }""")
    short, long = page.locator("job-progress").all()
    expect(short).to_have_attribute("state", "running")
    expect(long).to_have_attribute("state", "failed")

    for job, below in ((short, False), (long, True)):
        the, film, text = (job.locator(part).evaluate("(e) => e.getBoundingClientRect().toJSON()") for part in ("i", "b", "[part=text]"))
        assert the["top"] == film["top"]
        assert film["left"] - the["right"] < 10
        assert (text["top"] >= film["bottom"]) == below


def test_job_progress_follows_the_channel_it_is_given_now(page: Page, publisher: Publisher) -> None:
    for channel, percent in (("jobs:3", 30), ("jobs:4", 40)):
        publisher.publish(channel, "progress", {"percent": percent})
    page.evaluate("""async () => {
        const { JobProgress } = await import("/job-progress.js");
        document.body.innerHTML = '<job-progress channel="jobs:3"></job-progress><job-progress channel="jobs:3"></job-progress>';
    }""")
    first, second = page.locator("job-progress").all()
    expect(second.locator("[part=text]")).to_have_text("30 %")
    first.evaluate("(element) => element.setAttribute('channel', 'jobs:4')")
    expect(first.locator("[part=text]")).to_have_text("40 %")
    publisher.publish("jobs:3", "progress", {"percent": 31})

    expect(second.locator("[part=text]")).to_have_text("31 %")
    expect(first.locator("[part=text]")).to_have_text("40 %")


def test_job_progress_that_is_moved_says_nothing_twice(page: Page, publisher: Publisher) -> None:
    publisher.publish("jobs:8", "completed", {}, final=True)
    page.evaluate("""async () => {
        document.body.innerHTML = '<p></p><job-progress channel="jobs:8"></job-progress>';
        window.done = 0;
        document.addEventListener("job-done", () => done++);
        const { JobProgress } = await import("/job-progress.js");
        window.feed = JobProgress.feed;
    }""")
    job = page.locator("job-progress")
    expect(job).to_have_attribute("state", "done")
    job.evaluate("(element) => { document.body.prepend(element); element.setAttribute('channel', 'jobs:8'); }")
    page.evaluate("feed.follow('jobs:8:more')")
    publisher.publish("jobs:8:more", "progress")
    page.wait_for_function("feed.last('jobs:8:more')")

    assert page.evaluate("done") == 1
    job.evaluate("(element) => element.remove()")
    assert page.evaluate("feed.last('jobs:8')") is None  # nobody follows it any more


def test_job_progress_keeps_its_looks_in_another_window_of_the_page(page: Page) -> None:
    """As in a picture-in-picture window, which is a document of its own."""
    displays = page.evaluate("""async () => {
        document.body.innerHTML = '<iframe></iframe><job-progress channel="jobs:16">Film</job-progress>';
        await import("/job-progress.js");
        const job = document.querySelector("job-progress");
        const display = (body) => {
            body.append(job);
            return getComputedStyle(job.shadowRoot.querySelector("progress")).display;
        };
        return [document, document.querySelector("iframe").contentDocument, document].map(({ body }) => display(body));
    }""")

    assert displays == ["block"] * 3


def test_job_progress_with_no_channels_name_lets_the_others_go_on(page: Page, publisher: Publisher) -> None:
    page.evaluate("""async () => {
        document.body.innerHTML = '<job-progress channel="jobs:9"></job-progress><job-progress channel="no name"></job-progress>';
        await import("/job-progress.js");
    }""")
    job, other = page.locator("job-progress").all()
    expect(other).to_have_attribute("state", "refused")
    expect(other.locator("progress")).to_have_attribute("value", "0")
    publisher.publish("jobs:9", "progress", {"percent": 400})
    expect(job.locator("[part=text]")).to_have_text("100 %")
    other.evaluate("(element) => element.setAttribute('channel', '<b>')")

    expect(other).to_have_attribute("state", "refused")
    expect(job).to_have_attribute("state", "running")


def test_job_progress_keeps_still_for_who_wants_that_and_within_its_width(page: Page, publisher: Publisher) -> None:
    publisher.publish("jobs:10", "progress", {"text": "x" * 500})
    page.emulate_media(reduced_motion="reduce")
    page.evaluate("""async () => {
        document.body.innerHTML = '<job-progress channel="jobs:10">Film</job-progress><job-progress channel="jobs:11"></job-progress>';
        await import("/job-progress.js");
        await import("/job-progress.js?again"); // as two bundles of a page bring it
    }""")
    job, other = page.locator("job-progress").all()
    expect(job.locator("[part=text]")).to_have_text("x" * 500)

    assert other.locator("progress").evaluate("(bar) => getComputedStyle(bar).animationName") == "none"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(scope="module")
def component(modules: Path) -> str:
    command = [str(modules / ".bin" / "esbuild"), "--bundle", "--format=iife", '--define:process.env.NODE_ENV="development"']
    return subprocess.run(command, check=True, cwd=CLIENT, input=COMPONENT, capture_output=True, text=True).stdout


def test_use_job_gives_a_components_job_from_the_first_render_to_the_end(page: Page, publisher: Publisher, component: str) -> None:
    publisher.publish("jobs:5", "progress", {"percent": 50})
    page.evaluate("document.body.innerHTML = ''")
    page.add_script_tag(content=component)
    page.evaluate("show('jobs:5', 'jobs:6')")
    job, other = page.locator("p[id='jobs:5']"), page.locator("p[id='jobs:6']")
    expect(job).to_have_text("live progress 50  ")
    expect(other).to_have_text("live    ")
    page.evaluate("show('jobs:5')")
    page.evaluate("show('jobs:5', 'jobs:6')")
    publisher.publish("jobs:6", "started", {})
    publisher.publish("jobs:5", "completed", {"url": "/files/5"}, final=True)

    expect(job).to_have_text("live completed 50 /files/5 ")
    expect(other).to_have_text("live started   ")


def test_use_job_needs_no_other_connection_for_a_component_that_comes_later(page: Page, publisher: Publisher, component: str) -> None:
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.evaluate("document.body.innerHTML = ''")
    page.add_script_tag(content=component)
    page.evaluate("show('jobs:17')")
    expect(page.locator("p[id='jobs:17']")).to_have_text("live    ")
    page.evaluate("show('jobs:17', 'jobs:18')")
    publisher.publish("jobs:18", "started", {})

    expect(page.locator("p[id='jobs:18']")).to_have_text("live started   ")
    assert len(sockets) == 1


def test_of_more_jobs_than_a_feed_can_follow_only_those_too_many_are_refused(page: Page, publisher: Publisher) -> None:
    page.evaluate("""async () => {
        for (let i = 0; i < 131; i++) {
            const job = document.createElement("job-progress");
            job.setAttribute("channel", "jobs:" + i);
            document.body.append(job);
        }
        await import("/job-progress.js");
    }""")
    refused = page.locator("job-progress[state=refused]")

    expect(refused).to_have_count(3)
    publisher.publish("jobs:127", "progress", {"percent": 40})
    expect(page.locator("job-progress[channel='jobs:127']")).to_have_attribute("state", "running")
    assert refused.evaluate_all("jobs => jobs.map((job) => job.getAttribute('channel'))") == ["jobs:128", "jobs:129", "jobs:130"]
