"""Tests that need Node: the browser client's own tests, its types and size, and SSE clients from npm."""

from __future__ import annotations

import asyncio
import gzip
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.browser.conftest import CLIENT, NODE
from tests.conftest import need, publisher
from tests.faults.proxy import Proxy
from tests.support.servers import running_gateway

MOST_BYTES = 3_072

CUTS = 2
EVENTS = 30  # before each of them, and after the last


def node(*arguments: str | Path, cwd: Path = CLIENT, text: str | None = None) -> str:
    """Run a command to its end; its output."""
    done = subprocess.run([*arguments], check=False, cwd=cwd, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_clients_own_tests() -> None:
    major = int(node(str(NODE), "--print", "parseInt(process.versions.node)")) if NODE else 0
    # In Node 18 fetch never ends if a stream's last bytes and its end come together.
    need(major >= 20, "Node 20: apt-get install nodejs npm, and npm install --global node@22")
    node(str(NODE), "--test", "--test-reporter=dot", *sorted((CLIENT / "tests").glob("*.test.js")))


def test_types_hold_and_are_those_that_are_shipped(modules: Path, tmp_path: Path) -> None:
    node(str(NODE), modules / "typescript" / "bin" / "tsc", "--outDir", str(tmp_path))

    shipped = {path.name: path.read_text() for path in (CLIENT / "types").iterdir()}
    assert shipped == {path.name: path.read_text() for path in tmp_path.iterdir()}, "write them again: npm run types"


def gzipped(code: bytes) -> int:
    return len(gzip.compress(code, 9, mtime=0))


def test_the_served_client_is_built_of_the_source_and_small(modules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that a page loads for ``connect``, with the code for tabs, is one file, which is sent gzipped."""
    build = json.loads((CLIENT / "package.json").read_text())["scripts"]["build"]
    built = tmp_path / "client.min.js"
    assert "--output client.min.js" in build
    command = build.replace("--output client.min.js", f"--output {shlex.quote(str(built))}")
    node("sh", "-c", f'PATH="$1:$PATH"; {command}', "sh", modules / ".bin")
    size = gzipped(built.read_bytes())
    bundle = (modules / ".bin" / "esbuild", "--bundle", "--minify", "--format=esm")
    bundled = gzipped(node(*bundle, text='export { connect } from "./client.js"').encode())
    with capsys.disabled():
        print(f"\nclient.js: {size:,} bytes minified and gzipped, at most {MOST_BYTES:,}; {bundled:,} as esbuild alone makes it")

    assert (CLIENT / "client.min.js").read_bytes() == built.read_bytes(), "build it again: npm run build"
    assert size <= MOST_BYTES


@pytest.mark.parametrize("name", ["eventsource", "fetch-event-source"])
async def test_sse_clients_from_npm_are_cut_and_lose_nothing(modules: Path, shared_redis_url: str, shared_redis: Redis, name: str) -> None:
    publish = publisher(shared_redis)
    channel = f"npm:{name}"
    script = modules / "foreign.mjs"  # where its imports are found
    shutil.copy(Path(__file__).parent / script.name, script)
    ledger: list[str] = []
    with running_gateway(shared_redis_url) as gateway:
        async with Proxy(gateway.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}/sse?channel={channel}&since=0"
            arguments = (str(script), name, url, str(EVENTS * (CUTS + 1)))
            client = await asyncio.create_subprocess_exec(str(NODE), *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            async with asyncio.timeout(60):
                for cuts_left in range(CUTS, -1, -1):
                    before = proxy.carried
                    ledger += [await publish(channel, "progress", i, keep=1_000) for i in range(EVENTS)]
                    while cuts_left and proxy.carried < before + EVENTS * 50:
                        await asyncio.sleep(0.01)
                    if cuts_left:
                        proxy.reset()
                output, errors = await client.communicate()

    assert client.returncode == 0, errors.decode()
    log = json.loads(output)
    assert log["ids"] == ledger
    assert log["gaps"] == 0
