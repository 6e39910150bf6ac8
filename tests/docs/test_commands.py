"""Every command of every page works, in the order in which a newcomer would type them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from gateway.embedded import embedded_server, free_port
from tests.conftest import need
from tests.docs.blocks import PAGES, ROOT, SAMPLES, Block, blocks, commands, commented
from tests.docs.following import Follower
from tests.docs.table import ELSEWHERE, HERE, LASTING, NO_CODE, NOT_RUN, SETTINGS, elsewhere, no_code
from tests.support.servers import running_gateway

SECRET = "0123456789abcdef" * 4
RUN_BY_OTHERS = {"python", "javascript", "html", "json"}  # test_code.py, tests/browser


def typed(path: Path) -> list[Block]:
    """All commands of a page, in order."""
    if elsewhere(path):
        return []
    found = blocks(path) if path.suffix == ".md" else commented(path)
    return [block for block in found if block.language in ("shell", "redis") and not no_code(block)]


FOLLOWED = {str(path.relative_to(ROOT)): path for path in [*PAGES, *SAMPLES, ROOT / "docker-compose.yml"] if typed(path)}
LINES = [line for path in FOLLOWED.values() for block in typed(path) for line in commands(block)]


@contextlib.contextmanager
def newcomer(name: str, folder: Path) -> Iterator[tuple[Follower, Redis]]:
    """A reader of this page, with a Redis, and a running gateway if the page assumes one."""
    text = "\n".join(block.text for block in typed(FOLLOWED[name]))
    settings = SETTINGS.get(name, {"GATEWAY_AUTH": "jwt", "GATEWAY_JWT_SECRET": SECRET})
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(embedded_server("--appendonly", "yes"))
        port = free_port()
        if "FCALL" in text or "app.example" in text:
            gateway = stack.enter_context(running_gateway(url, auth="jwt", jwt_secret=SECRET))
            port = free_port() if "gateway serve" in text else gateway.port
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | settings
        environ |= {"GATEWAY_REDIS_URL": url, "GATEWAY_PORT": str(port), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        values = {"redis": url, "http": f"http://127.0.0.1:{port}", "secret": SECRET, "port": str(free_port())}
        redis = stack.enter_context(Redis.from_url(url, decode_responses=True))
        yield stack.enter_context(Follower(folder, environ, values)), redis


@pytest.mark.parametrize("name", FOLLOWED)
def test_every_command_runs(name: str, tmp_path: Path) -> None:
    page = typed(FOLLOWED[name])
    need(shutil.which("uv"), "uv: pip install uv")
    for tool in ("curl", "openssl"):
        if any(re.search(rf"\b{tool}\b", block.text) for block in page):
            need(shutil.which(tool), f"{tool}: apt-get install {tool}")
    if any("--group loadtest" in block.text for block in page):
        need(importlib.util.find_spec("locust"), "the load tests' packages: uv sync --group loadtest")
    with newcomer(name, tmp_path) as (follower, redis):
        for block in page:
            for line in commands(block):
                if block.language == "redis":
                    assert str(redis.execute_command(*shlex.split(line))).isdigit()
                else:
                    follower.type(line)


def test_every_code_block_is_run_by_some_test() -> None:
    """If this fails for a new block: name its language with a fence, or say in table.py what it is."""
    unknown = [
        block.where
        for path in PAGES
        if not elsewhere(path)
        for block in blocks(path)
        if not no_code(block) and block.language not in {"shell", "redis"} | RUN_BY_OTHERS
    ]

    assert unknown == []


def test_each_row_of_the_table_names_an_existing_block() -> None:
    texts = [block.text for path in PAGES for block in blocks(path)]
    lines = "\n".join(LINES)
    idle = [pattern for pattern in HERE if not re.search(pattern, lines, re.MULTILINE) and "?<=locust" not in pattern]
    idle += [row.command for row in NOT_RUN if not any(re.search(row.command, line) for line in LINES)]
    idle += [begins for begins in NO_CODE if not any(re.match(begins, text) for text in texts)]
    idle += [row.command for row in LASTING if not re.search(row.command.split(" .*")[0], lines, re.MULTILINE)]
    idle += [name for name in SETTINGS if name not in FOLLOWED]
    idle += [test for tests in ELSEWHERE.values() for test in tests if not (ROOT / test).exists()]

    assert idle == []
    assert all(row.why for row in NOT_RUN)
