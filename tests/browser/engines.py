"""Firefox and WebKitGTK, driven by the WebDriver protocols that they speak themselves: BiDi and the classic one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import httpx
from websockets.sync.client import ClientConnection, connect

from gateway.embedded import free_port

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
XVFB = shutil.which("Xvfb")
DRIVER = shutil.which("WebKitWebDriver")
MINI_BROWSER = next(iter(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser")), None)
SECONDS = 30

# The value of an expression, or of its promise, as JSON.
VALUE = """(async () => {{
    try {{ return JSON.stringify({{ value: await ({}) }}); }} catch (error) {{ return JSON.stringify({{ error: String(error) }}); }}
}})()"""


class Driver(Protocol):
    """One window of a browser."""

    def show(self, url: str) -> None:
        """Load a page."""

    def evaluate(self, expression: str) -> str:
        """The JSON of ``VALUE`` in the page."""


class Engine:
    """One window of a browser, for tests with an event loop."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def show(self, url: str) -> None:
        await asyncio.to_thread(self._driver.show, url)

    async def run(self, expression: str) -> Any:
        """The value of an expression in the page, or of its promise."""
        answer = json.loads(await asyncio.to_thread(self._driver.evaluate, VALUE.format(expression)))
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    async def wait_for(self, expression: str, value: Any) -> None:
        """Wait until an expression in the page has this value."""
        async with asyncio.timeout(SECONDS):
            while await self.run(expression) != value:
                await asyncio.sleep(0.05)


class BiDi:
    """WebDriver BiDi (w3.org/TR/webdriver-bidi), which Firefox speaks without a driver."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = count(1)
        self._command("session.new", capabilities={})
        self._context = self._command("browsingContext.getTree")["contexts"][0]["context"]

    def _command(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._connection.recv(SECONDS))).get("id") != number:
            pass
        result: dict[str, Any] = answer["result"]
        return result

    def show(self, url: str) -> None:
        self._command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, expression: str) -> str:
        target = {"context": self._context}
        text: str = self._command("script.evaluate", expression=expression, target=target, awaitPromise=True)["result"]["value"]
        return text


class Classic:
    """WebDriver (w3.org/TR/webdriver2), as WebKitGTK's driver speaks it."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._path = "/session"
        options = {"binary": str(MINI_BROWSER), "args": ["--automation"]}
        session = self._command("", {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}})["sessionId"]
        self._path += f"/{session}"

    def _command(self, path: str, body: dict[str, Any]) -> Any:
        return self._http.post(self._path + path, json=body).raise_for_status().json()["value"]

    def show(self, url: str) -> None:
        self._command("/url", {"url": url})

    def evaluate(self, expression: str) -> str:
        text: str = self._command("/execute/async", {"script": f"{expression}.then(arguments[0])", "args": []})
        return text

    def end(self) -> None:
        self._http.delete(self._path)


@contextmanager
def _program(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=os.environ | environ, text=True, **output) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def firefox(home: Path) -> Iterator[Engine]:
    """Run Firefox with a profile of its own."""
    (home / "user.js").write_text('user_pref("devtools.jsonview.enabled", false);')  # its viewer of JSON runs no scripts of a page's
    command = [str(FIREFOX), "-headless", "-no-remote", "-profile", str(home), "--remote-debugging-port", "0"]
    with _program(command, {"HOME": str(home)}) as process:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"listening on (ws:\S+)", line) for line in process.stdout)))
        with connect(f"{found[1]}/session", proxy=None, max_size=None) as connection:
            yield Engine(BiDi(connection))


@contextmanager
def webkit(home: Path) -> Iterator[Engine]:
    """Run WebKitGTK's small browser on a screen of its own."""
    port = free_port()
    with ExitStack() as stack:
        screen = stack.enter_context(_program([str(XVFB), "-displayfd", "1", "-nolisten", "tcp"], {}))
        assert screen.stdout is not None
        display = next(line for line in screen.stdout if line.strip().isdecimal()).strip()
        environ = {"DISPLAY": f":{display}", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "NO_AT_BRIDGE": "1"}
        stack.enter_context(_program([str(DRIVER), "-p", str(port)], environ))
        transport = httpx.HTTPTransport(retries=6)  # until the driver listens
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=SECONDS))
        driver = Classic(http)
        stack.callback(driver.end)
        yield Engine(driver)
