"""Firefox and WebKitGTK, the engine of Safari, follow jobs as Chromium does. What is tested here was wrong in one of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from notify_client import Publisher

from tests.browser.client.pages import PAGE
from tests.browser.engines import DRIVER, FIREFOX, MINI_BROWSER, XVFB, Engine, firefox, webkit
from tests.conftest import need
from tests.faults.proxy import Proxy
from tests.support.servers import Server

NATIVE = """() => {
    window.native = [];
    const source = new EventSource(`/sse?channel=${channel}&since=0`);
    source.onmessage = ({ data }) => native.push(JSON.parse(data).id);
}"""


@pytest.fixture(scope="module", params=["firefox", "webkit"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    home = tmp_path_factory.mktemp("home")
    if request.param == "firefox":
        need(FIREFOX, "Firefox: apt-get install firefox-esr")
    else:
        need(DRIVER and MINI_BROWSER and XVFB, "WebKitGTK: apt-get install webkit2gtk-driver xvfb")
    with firefox(home) if request.param == "firefox" else webkit(home) as engine:
        yield engine


async def test_a_connection_that_breaks_in_the_middle_of_an_event_costs_no_event(
    engine: Engine, gateway: Server, publisher: Publisher
) -> None:
    channel = f"jobs:{uuid.uuid4().hex}"
    async with Proxy(gateway.port) as proxy:
        await engine.show(f"http://127.0.0.1:{proxy.port}/openapi.json")  # any document of this origin
        await engine.run(f"({PAGE})().then(() => begin([window.channel = '{channel}'], {{ since: '0' }})).then({NATIVE})")
        ids = [publisher.publish(channel, "started")]
        await engine.wait_for("[native.length, log[channel]?.length]", [1, 1])
        proxy.rate = 50_000
        carried = proxy.carried
        ids.append(publisher.publish(channel, "progress", {"text": "x" * 60_000}))
        while proxy.carried < carried + 20_000:
            await asyncio.sleep(0.01)
        proxy.mode = "refuse"
        proxy.reset()
        ids.append(publisher.publish(channel, "progress", {"percent": 50}))
        await engine.wait_for("feed.status", "waiting")
        proxy.rate, proxy.mode = None, "pass"
        ids.append(publisher.publish(channel, "completed", final=True))

        expected = [str(id) for id in ids]
        await engine.wait_for("[native.length, log[channel].length]", [len(ids)] * 2)
        assert await engine.run("[native, log[channel], gaps]") == [expected, expected, []]
        await engine.run("feed.close()")


async def test_the_bar_of_a_job_that_is_over_is_full_at_once_and_of_one_that_waits_is_not(
    engine: Engine, gateway: Server, publisher: Publisher
) -> None:
    publisher.publish("jobs:2", "completed", {}, final=True)
    await engine.show(f"{gateway.http}/openapi.json")
    await engine.run("""import("/job-progress.js").then(() => {
        document.body.innerHTML = '<job-progress channel="jobs:2"></job-progress><job-progress channel="jobs:3"></job-progress>';
        window.bars = [...document.querySelectorAll("job-progress")].map((job) => job.shadowRoot.querySelector("progress"));
    })""")
    await engine.wait_for("bars.map((bar) => bar.position)", [1, -1])
    fillings = await engine.run("""["-moz-progress-bar", "-webkit-progress-bar"].filter((part) => CSS.supports(`selector(::${part})`))
        .map((part) => getComputedStyle(bars[1], "::" + part).backgroundColor)""")

    assert "rgba(0, 0, 0, 0)" in fillings
