"""A real Chromium, and what npm installs for the tests of the browser client."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.conftest import need
from tests.support.servers import Server, running_gateway

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
CLIENT = Path(__file__).parent.parent.parent / "clients" / "js"

expect.set_options(timeout=10_000)  # on a machine that does four things at once


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    need(CHROMIUM, "Chromium: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser of a test's own, in whose pages nothing may go wrong."""
    context = chromium.new_context()
    context.set_default_timeout(10_000)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert errors == []


@pytest.fixture(scope="module")
def gateway(shared_redis_url: str) -> Iterator[Server]:
    """Open to everybody."""
    with running_gateway(shared_redis_url) as server:
        yield server
        assert "Traceback" not in server.output()


@pytest.fixture(scope="module")
def modules() -> Path:
    """What npm has installed for the tests, beside the client; that is kept for the next run."""
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
