"""The examples of docs/any-language.md that this machine can run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from tests.conftest import need
from tests.support.servers import running_gateway

PAGE = Path(__file__).parents[2] / "docs" / "any-language.md"


def example(section: str) -> str:
    """The indented lines of a section."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


CASES = {"Shell": ("redis-cli", "jobs:42", {"progress", "completed"}), "HTTP": ("curl", "jobs:43", {"completed"})}


@pytest.mark.parametrize("section", CASES)
async def test_an_example_publishes(shared_redis_url: str, shared_redis: Redis, section: str) -> None:
    program, channel, types = CASES[section]
    need(shutil.which(program), f"{program}: apt-get install {'redis-tools' if program == 'redis-cli' else program}")
    with running_gateway(shared_redis_url) as gateway:
        environ = os.environ | {"REDIS_URL": shared_redis_url, "NOTIFY_URL": gateway.http, "TOKEN": "none"}
        for _ in range(2):  # with its key, the end is one event however often it is published
            done = subprocess.run(["bash", "-euc", example(section)], env=environ, capture_output=True, text=True, check=True)
            assert "ERR" not in done.stdout, done

    entries = await shared_redis.execute_command("LRANGE", f"notify:log:{{{channel}}}", 0, -1)
    found = [msgspec.json.decode(entry.split(b"\n", 1)[1]) for entry in entries]
    assert [event["type"] for event in found if event.get("final")] == ["completed"]
    assert {event["type"] for event in found} == types
