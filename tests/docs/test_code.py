"""The Python in the pages runs, one block after the other, and the JSON is valid."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from notify_client import Publisher

from tests.docs.blocks import PAGES, ROOT, Block, blocks
from tests.docs.table import PRELUDES, elsewhere, no_code
from tests.support.servers import running_gateway

# ``await`` is allowed outside of functions, as in a notebook.
NOTEBOOK = """
import ast, asyncio, sys
waiting = eval(compile(sys.stdin.read(), sys.argv[1], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {"__name__": "page"})
if waiting is not None:
    asyncio.run(waiting)
"""


def found(language: str) -> list[Block]:
    """The blocks in this language that no other test runs."""
    return [block for path in PAGES if not elsewhere(path) for block in blocks(path) if block.language == language and not no_code(block)]


PYTHON = {str(page.relative_to(ROOT)): [block for block in found("python") if block.page == page] for page in PAGES}


@pytest.mark.parametrize("name", [name for name, each in PYTHON.items() if each])
def test_the_python_of_a_page_runs(name: str, shared_redis_url: str, tmp_path: Path) -> None:
    code = PRELUDES.get(name, "") + "\n".join(block.text for block in PYTHON[name])
    code = code.replace("redis://localhost:6379", shared_redis_url)
    with contextlib.ExitStack() as stack:
        if "http://localhost:8000" in code:
            code = code.replace("http://localhost:8000", stack.enter_context(running_gateway(shared_redis_url)).http)
            stack.enter_context(Publisher(shared_redis_url, timeout=10)).publish("jobs:42", "completed", {"url": "/files/42"}, final=True)
        done = subprocess.run(
            [sys.executable, "-c", NOTEBOOK, name], input=code, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
        )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", found("json"), ids=lambda block: block.where)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_each_prelude_is_of_a_page() -> None:
    assert [name for name in PRELUDES if not PYTHON.get(name)] == []
