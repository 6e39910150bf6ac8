"""The workflows of the documentation, run unchanged: their Python here, their pages in Chromium."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET

WORKFLOWS = Path(__file__).parents[2] / "docs" / "workflows"
MOST_LINES = 60


def code(name: str, language: str) -> str:
    """A page's code in one language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", (WORKFLOWS / f"{name}.md").read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


Work = Callable[[str], Any]
Open = Callable[..., Page]


@pytest.fixture
def work(shared_redis_url: str, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Gives what a workflow's Python defines."""
    monkeypatch.setenv("REDIS_URL", shared_redis_url)
    monkeypatch.setenv("NOTIFY_URL", gateway.http)
    publishers = []

    def load(name: str) -> Any:
        names: dict[str, Any] = {"__name__": name}
        exec(compile(code(name, "python"), f"{name}.md", "exec"), names)
        publishers.append(names.get("publisher"))
        return SimpleNamespace(**names)

    yield load
    for publisher in publishers:
        if publisher is not None:
            publisher.close()


@pytest.fixture
def open_page(context: BrowserContext, gateway: Server) -> Open:
    """Opens a workflow's page, at an address of the gateway."""

    def open_page(name: str, server: Server = gateway) -> Page:
        page = context.new_page()
        page.route("**/page", lambda route: route.fulfill(body=code(name, "html"), content_type="text/html; charset=utf-8"))
        page.goto(f"{server.http}/page")
        return page

    return open_page


def test_each_is_short_and_listed() -> None:
    names = {path.stem for path in WORKFLOWS.glob("*.md")} - {"README"}
    listed = set(re.findall(r"\]\(([a-z-]+)\.md\)", (WORKFLOWS / "README.md").read_text()))
    blocks = {path: re.findall(r"^```\w+\n(.*?)^```$", (WORKFLOWS / f"{path}.md").read_text(), re.DOTALL | re.MULTILINE) for path in names}

    assert names == listed
    assert len(names) == 9
    assert {path for path, found in blocks.items() if any(block.count("\n") >= MOST_LINES for block in found)} == set()


def test_upload(work: Work, open_page: Open) -> None:
    page = open_page("upload")
    transcoder = threading.Thread(target=work("upload").transcode, args=("42", 2.0))
    transcoder.start()
    expect(page.locator("job-progress")).to_have_attribute("state", "running")
    page.close()
    transcoder.join()
    page = open_page("upload")

    expect(page.get_by_role("link", name="Watch it")).to_have_attribute("href", "/watch/42")
    expect(page.locator("job-progress")).to_have_attribute("state", "done")


def test_password_reset(work: Work, open_page: Open, shared_redis_url: str) -> None:
    workflow = work("password-reset")

    def forgotten(route: Route) -> None:
        answer = workflow.ask(SECRET)
        route.fulfill(json=answer)
        address = re.search(r'name="address"\s+(\S*)', route.request.post_data or "")
        workflow.send(answer["channel"], address[1] if address else "")

    with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET) as server:
        page = open_page("password-reset", server)
        page.route("**/forgotten", forgotten)
        page.click("button")
        expect(page.get_by_role("status")).to_have_text("If we know you, a letter is on its way.")
        page.fill("input", "nonsense")
        page.click("button")

        expect(page.get_by_role("status")).to_have_text("That is no address.")


def test_checkout(work: Work, open_page: Open) -> None:
    page = open_page("checkout")
    expect(page.get_by_role("status")).to_have_text("We are waiting for your bank …")
    for _ in range(2):
        work("checkout").on_webhook({"id": "pay-1", "order": "7", "status": "succeeded"})

    expect(page.get_by_role("status")).to_have_text("Paid. Your receipt: /receipts/pay-1")
    expect(open_page("checkout").get_by_role("status")).to_have_text("Paid. Your receipt: /receipts/pay-1")


def test_order(work: Work, open_page: Open) -> None:
    order = work("order")
    order.shop("42")
    page = open_page("order")
    order.warehouse("42")
    order.warehouse("42")
    order.carrier("42")

    expect(page.locator("li")).to_have_text(["Paid", "Packed", "On its way", "Delivered"])


def test_tweet(work: Work, open_page: Open) -> None:
    page = open_page("tweet")
    for _ in range(2):
        assert work("tweet").tweet("ann", "Good morning", 1, [str(number) for number in range(1_000)]) == 1_000

    expect(page.locator("li")).to_have_text(["ann: Good morning"])


def test_dashboard(work: Work, context: BrowserContext, open_page: Open) -> None:
    sales = chain([100], repeat(250))
    context.route("**/numbers.json", lambda route: route.fulfill(json={"sales": next(sales)}))
    page = open_page("dashboard")
    expect(page.locator("#sales")).to_have_text("100 sold")
    refresh, nights = work("dashboard").refresh, count()
    deadline = time.monotonic() + 30
    while page.locator("#sales").inner_text() == "100 sold":  # it follows from the moment it is connected
        assert time.monotonic() < deadline
        refresh(f"night {next(nights)}")
        page.wait_for_timeout(200)

    expect(page.locator("#sales")).to_have_text("250 sold")


async def sign_ups(workflow: Any, folder: Path) -> dict[str, list[str]]:
    """Two services, of which one is down for a while and the other starts late; the sign-ups that each has handled."""
    seen: dict[str, list[str]] = {"welcome": [], "newsletter": []}
    both = asyncio.Event()

    def service(name: str) -> Callable[..., Any]:
        async def handle(data: dict[str, str]) -> None:
            seen[name].append(data["user"])
            if all(users[-1:] == ["dora"] for users in seen.values()):
                both.set()

        return handle

    for user in ("ann", "bob"):
        workflow.sign_up(user)
    async with asyncio.timeout(30):
        async with asyncio.TaskGroup() as tasks:
            early = tasks.create_task(workflow.serve(service("welcome"), folder / "welcome"))
            while not (folder / "welcome").exists() or len(seen["welcome"]) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            early.cancel()  # down, while the other one has not even begun
        for user in ("cleo", "dora", "dora"):
            workflow.sign_up(user)
        services = asyncio.create_task(workflow.main(service("welcome"), service("newsletter"), folder))
        await both.wait()
        services.cancel()
        await asyncio.gather(services, return_exceptions=True)
    return seen


def test_sign_up(work: Work, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as thread:  # the browser's loop runs in this one
        seen = thread.submit(asyncio.run, sign_ups(work("sign-up"), tmp_path)).result(30)

    assert seen == {"welcome": ["ann", "bob", "cleo", "dora"], "newsletter": ["ann", "bob", "cleo", "dora"]}


def test_documents(work: Work, open_page: Open) -> None:
    def ask_model(name: str) -> tuple[str, int]:
        if name == "blank.pdf":
            raise ValueError("no text in it")
        return f"what {name} says", 100

    page = open_page("documents")
    work("documents").read_batch("3", ["a.pdf", "blank.pdf", "c.pdf"], ask_model)
    for seen in (page, open_page("documents")):
        expect(seen.get_by_role("status")).to_have_text("2 read, 1 not, 200 tokens")

        assert seen.locator("tr").all_inner_texts() == [
            "a.pdf\twhat a.pdf says",
            "blank.pdf\tnot read: no text in it",
            "c.pdf\twhat c.pdf says",
        ]


def test_sensor(work: Work, open_page: Open) -> None:
    boiler = work("sensor").Boiler("boiler")
    boiler.measure(95)
    page = open_page("sensor")
    expect(page.locator("li")).to_have_text(["boiler is at 95 °C"])
    expect(page.locator("#value")).to_be_visible()
    boiler.measure(96)
    boiler.measure(70.5)

    expect(page.locator("#value")).to_have_text("70.5 °C")
    expect(page.locator("li")).to_have_text([re.compile(r"^boiler was too hot for \d+ s$"), "boiler is at 95 °C"])
