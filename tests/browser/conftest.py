"""Fixtures for a real Chromium, and for the npm packages that the tests of the browser client need."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from notify_client import Publisher
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.conftest import need
from tests.support.servers import Server, running_gateway

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NODE = shutil.which("node")
CLIENT = Path(__file__).parent.parent.parent / "clients" / "js"

# Where a letter of a text stands.
LEFT_OF_LETTER = """(element, at) => {
    const range = new Range();
    range.setStart(element.firstChild, at);
    range.setEnd(element.firstChild, at + 1);
    return range.getBoundingClientRect().left;
}"""

expect.set_options(timeout=30_000)  # long, because four test workers share the machine


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    need(CHROMIUM, "Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser context for one test, which fails if a page raises an uncaught error."""
    context = chromium.new_context()
    context.set_default_timeout(30_000)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert errors == []


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    """A gateway without authentication."""
    with running_gateway(shared_redis_url) as server:
        yield server
        assert "Traceback" not in server.output()


@pytest.fixture(scope="module")
def publisher(shared_redis_url: str) -> Iterator[Publisher]:
    with Publisher(shared_redis_url, timeout=10) as publisher:
        yield publisher


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder of the npm packages, installed beside the client if they are not there yet, and kept for the next run."""
    need(NODE, "Node: apt-get install nodejs npm")
    installed = CLIENT / "node_modules"
    wanted = json.loads((CLIENT / "package.json").read_text())["devDependencies"]

    def version(name: str) -> str | None:
        found = installed / name / "package.json"
        return json.loads(found.read_text())["version"] if found.is_file() else None

    with (CLIENT / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the workers installs, the others wait for it
        if any(version(name) != wanted[name] for name in wanted):
            npm = shutil.which("npm")
            need(npm, "npm: apt-get install npm")
            command = [str(npm), "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, check=False, cwd=CLIENT, capture_output=True, timeout=100)
            need(done.returncode == 0, "what clients/js tests with: cd clients/js && npm install")
    return installed
