"""The examples for web pages in docs/clients.md and other documents, run unchanged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest
from notify_client import Publisher, issue_token
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import CLIENT, NODE
from tests.docs.blocks import PAGES, ROOT, Block, blocks
from tests.docs.table import elsewhere
from tests.support.answering import answering
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET

JAVASCRIPT = [block for page in PAGES if not elsewhere(page) for block in blocks(page) if block.language == "javascript"]

# The pages and scripts around the examples.
TANSTACK = """
import {{ QueryClient, QueryClientProvider, useQuery, useQueryClient }} from "@tanstack/react-query";
import {{ useEffect }} from "react";
import {{ createRoot }} from "react-dom/client";
import {{ connect }} from "./client.js";
const getToken = undefined;
{example}
const Export = () => <p>{{JSON.stringify(useExport("44").data ?? null)}}</p>;
createRoot(document.body).render(<QueryClientProvider client={{new QueryClient()}}><Export /></QueryClientProvider>);
window.feed = feed;
"""
REACT = """
import {{ createRoot }} from "react-dom/client";
{example}
createRoot(document.body).render(<Export job="46" />);
"""


def examples(title: str, page: str = "docs/clients.md") -> list[str]:
    """The blocks of code below a heading."""
    lines = (ROOT / page).read_text().splitlines()
    begin = lines.index(title if title.startswith("#") else f"## {title}") + 1
    end = next((number for number, line in enumerate(lines[begin:], begin + 1) if line.startswith("## ")), len(lines) + 1)
    return [block.text for block in blocks(ROOT / page) if begin < block.line < end]


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def show(page: Page, gateway: Server, body: str) -> None:
    page.route("**/page", lambda route: route.fulfill(body=f"<!doctype html><body>{body}", content_type="text/html; charset=utf-8"))
    page.goto(f"{gateway.http}/page")


def show_bundle(page: Page, gateway: Server, modules: Path, code: str) -> None:
    command = [str(modules / ".bin" / "esbuild"), "--bundle", "--format=iife", '--define:process.env.NODE_ENV="production"']
    command += ["--loader=jsx", "--jsx=automatic", "--alias:notify-gateway-client/react.js=./react.js"]
    bundle = subprocess.run(command, check=True, cwd=CLIENT, input=code, capture_output=True, text=True).stdout
    page.route("**/bundle.js", lambda route: route.fulfill(body=bundle, content_type="text/javascript"))
    show(page, gateway, '<script src="/bundle.js"></script>')


def test_client_js_and_the_bar(page: Page, gateway: Server, publisher: Publisher) -> None:
    publisher.publish("jobs:42", "progress", {"percent": 40})
    code, bar = examples("client.js")
    script = f"<script type=module>const getToken = undefined;\n{code}\nwindow.last = last;</script>"
    show(page, gateway, f"<progress id=bar max=100></progress>{bar}{script}")
    expect(page.locator("#bar")).to_have_attribute("value", "40")
    expect(page.locator("job-progress").locator("[part=text]")).to_have_text("40 %")
    publisher.publish("jobs:42", "completed", {"url": "/files/42"}, final=True)
    page.wait_for_function("window.last")

    assert page.evaluate("last.data") == {"url": "/files/42"}
    expect(page.locator("job-progress")).to_have_attribute("state", "done")


def test_the_first_page_of_the_readme(page: Page, gateway: Server, publisher: Publisher) -> None:
    publisher.publish("jobs:42", "progress", {"percent": 40})
    [whole] = [text for text in examples("# Notify Gateway", "README.md") if text.startswith("<")]
    show(page, gateway, whole)

    expect(page.locator("#bar")).to_have_attribute("value", "40")


def test_the_readme_without_our_client(page: Page, gateway: Server, publisher: Publisher) -> None:
    publisher.publish("jobs:42", "completed", {"url": "/files/42"}, final=True)
    [code] = [text for text in examples("Use it", "README.md") if text.startswith("const")]
    show(page, gateway, f"<script>const show = (type, data) => (window.shown = [type, data]);\n{code}</script>")
    page.wait_for_function("window.shown")

    assert page.evaluate("shown") == ["completed", {"url": "/files/42"}]


def test_the_page_of_the_quick_start(page: Page, gateway: Server, publisher: Publisher) -> None:
    publisher.publish("jobs:42", "completed", {"url": "/files/42"}, final=True)
    page.route("**/my-token", lambda route: route.fulfill(body="none"))
    code, _ = (text for text in examples("Follow", "docs/quick-start.md") if text.startswith("import"))
    show(page, gateway, f"<progress id=bar max=100></progress><script type=module>{code}\nwindow.last = last;</script>")
    page.wait_for_function("window.last")

    assert page.evaluate("last.data") == {"url": "/files/42"}


def test_the_page_of_the_quick_start_that_comes_from_another_port(page: Page, shared_redis_url: str, publisher: Publisher) -> None:
    publisher.publish("jobs:42", "completed", {"url": "/files/42"}, final=True)
    _, code = (text for text in examples("Follow", "docs/quick-start.md") if text.startswith("import"))
    with answering() as backend:
        origin = backend.url.rstrip("/").replace("127.0.0.1", "localhost")
        with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET, allowed_origins=origin) as gateway:
            backend.headers = {"content-type": "text/html"}
            here = code.replace("http://localhost:8000", f"http://localhost:{gateway.port}")
            backend.answer = (200, f"<!doctype html><script type=module>{here}\nwindow.last = last;</script>".encode())
            token = issue_token(SECRET, "ann", subscribe=["jobs:42"])
            page.context.add_cookies([{"name": "notify_token", "value": token, "url": origin}])
            page.goto(origin)
            page.wait_for_function("window.last")

            assert page.evaluate("last.data") == {"url": "/files/42"}


@pytest.mark.parametrize("block", JAVASCRIPT, ids=lambda block: block.where)
def test_javascript_can_be_read(modules: Path, block: Block) -> None:
    """All JavaScript of the documents parses, including what no test runs."""
    command = [str(modules / ".bin" / "esbuild"), "--loader=jsx", "--log-level=warning", "--format=esm"]
    done = subprocess.run(command, input=block.text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_react(page: Page, gateway: Server, publisher: Publisher, modules: Path) -> None:
    publisher.publish("jobs:46", "progress", {"percent": 40})
    show_bundle(page, gateway, modules, REACT.format(example=examples("React")[0]))
    expect(page.locator("progress")).to_have_attribute("value", "40")
    publisher.publish("jobs:46", "completed", {"url": "/files/46"}, final=True)

    expect(page.get_by_role("link", name="Download")).to_have_attribute("href", "/files/46")


def test_plain_event_source(page: Page, gateway: Server, publisher: Publisher) -> None:
    publisher.publish("jobs:47", "progress", {"percent": 40})
    code = examples("Plain EventSource")[0]
    show(page, gateway, f"<progress id=bar max=100></progress><script>{code.replace('42', '47')}\nwindow.source = source;</script>")
    expect(page.locator("#bar")).to_have_attribute("value", "40")
    publisher.publish("jobs:47", "progress", {"percent": 80})
    expect(page.locator("#bar")).to_have_attribute("value", "80")
    publisher.publish("jobs:47", "completed", {}, final=True)

    page.wait_for_function("source.readyState === EventSource.CLOSED")


def test_another_event_source_after_an_error(page: Page, gateway: Server, publisher: Publisher) -> None:
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url.partition("lastEventId=")[2])
        if len(asked) == 1:
            event = '{"type":"progress","data":{"percent":20}}'
            route.fulfill(body=f"retry: 10\nid: 17\ndata: {event}\n\n", content_type="text/event-stream")
        elif len(asked) == 2:
            route.fulfill(status=502)
        else:
            route.continue_()

    page.route("**/sse?*", answer)
    publisher.publish("jobs:48", "progress", {"percent": 80})
    publisher.publish("jobs:48", "completed", {}, final=True)
    code = examples("Plain EventSource")[1].replace("42", "48").replace("5_000", "50")
    show(page, gateway, f"<progress id=bar max=100></progress><script>{code}</script>")

    expect(page.locator("#bar")).to_have_attribute("value", "80")
    assert asked == ["", "", "17"]


def test_htmx(page: Page, gateway: Server, publisher: Publisher, modules: Path) -> None:
    rows = ["40 %", "done"]
    seen: list[str] = []

    def row(route: Route) -> None:
        seen.append(rows[min(len(seen), 1)])
        route.fulfill(body=f"<b>{seen[-1]}</b>", content_type="text/html")

    page.route("**/exports/43/row", row)
    page.route("**/static/htmx.js", lambda route: route.fulfill(path=modules / "htmx.org" / "dist" / "htmx.js"))
    page.route("**/static/htmx-ext-sse.js", lambda route: route.fulfill(path=modules / "htmx-ext-sse" / "sse.js"))
    publisher.publish("jobs:43", "progress", {"percent": 40})
    show(page, gateway, examples("htmx")[0].replace("42", "43"))
    expect(page.locator("b")).to_have_text("40 %")
    publisher.publish("jobs:43", "completed", {}, final=True)

    expect(page.locator("b")).to_have_text("done")


def test_tanstack_query(page: Page, gateway: Server, publisher: Publisher, modules: Path) -> None:
    page.route("**/exports/44", lambda route: route.fulfill(json={"state": "queued", "name": "orders"}))
    show_bundle(page, gateway, modules, TANSTACK.format(example=examples("TanStack Query")[0]))
    expect(page.locator("p")).to_have_text('{"state":"queued","name":"orders"}')
    page.wait_for_function("feed.status === 'live'")
    publisher.publish("jobs:44", "completed", {"url": "/files/44"}, final=True)

    expect(page.locator("p")).to_have_text('{"state":"completed","name":"orders","url":"/files/44"}')


def test_publishing_from_node(modules: Path, gateway: Server, shared_redis_url: str) -> None:
    [line] = [line for line in examples("Node", "docs/any-language.md")[0].splitlines() if line.endswith("// ioredis")]
    code = f'import {{ Redis }} from "ioredis"; const redis = new Redis("{shared_redis_url}"), id = "45"; {line}\nredis.disconnect();'
    subprocess.run([str(NODE), "--input-type=module", "-e", code], check=True, cwd=CLIENT, timeout=30)

    [event] = httpx.get(f"{gateway.http}/poll?channel=jobs:45").json()["events"]
    assert (event["type"], event["data"]) == ("progress", {"percent": 40})
