"""``gateway tap bullmq`` beside real BullMQ workers, which need no change."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from tests.browser.conftest import NODE
from tests.tap.test_tap import read

ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


@contextmanager
def tap(redis_url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gateway", "tap", "bullmq", "films", "--since", "0", *options]
    with subprocess.Popen(command, env=ENVIRON | {"GATEWAY_REDIS_URL": redis_url}, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def is_over(redis: Redis, id: str) -> bool:
    """Whether the second failure of the last job has been published."""
    types = [event["type"] for event in await read(redis, f"jobs:{id}")]
    return types.count("failed") == 2


async def wait_for(look: Callable[..., Any], *arguments: Any) -> None:
    async with asyncio.timeout(40):
        while not await look(*arguments):
            await asyncio.sleep(0.01)


async def test_what_happens_to_jobs_of_bullmq_is_told_once_though_a_tap_is_killed(modules: Path, redis_url: str, redis: Redis) -> None:
    script = modules / "queue.mjs"  # where its imports are found
    shutil.copy(Path(__file__).parent / script.name, script)
    command = (str(NODE), str(script), redis_url.rpartition(":")[2], "films")
    options = ("--results", "--messages")
    with tap(redis_url, *options) as first:
        await wait_for(redis.exists, "notify:tap:{bull:films}:lease")
        with tap(redis_url, *options) as second:
            queue = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            await wait_for(redis.exists, "notify:log:{jobs:2}")
            first.kill()  # in the midst of it; its lease holds for another 10 s
            output, errors = await asyncio.wait_for(queue.communicate(), 60)
            assert queue.returncode == 0, errors.decode()
            ids = json.loads(output)
            await wait_for(is_over, redis, ids["broken"])
            second.send_signal(signal.SIGTERM)
            code = second.wait(30)

    logs = {name: await read(redis, f"jobs:{id}") for name, id in ids.items()}
    stories = {name: [event["type"] for event in log if event["type"] != "progress"] for name, log in logs.items()}
    again = ["started", "retrying", "started", "completed"]
    assert stories == {
        "plain": ["queued", "started", "completed"],
        "broken": ["queued", "started", "failed", "queued", "started", "failed"],
        "flaky": ["queued", *again],
        "shy": ["queued", *again],
        "late": ["queued", "started", "completed"],
        "never": ["queued", "failed"],
    }
    id = ids["plain"]
    assert logs["plain"][-1] == {
        "type": "completed",
        "data": {"result": {"url": f"/files/{id}"}, "job": id, "task": "plain"},
        "final": True,
    }
    assert logs["broken"][-1]["data"] == {"error": "Failed", "message": "no disk", "job": ids["broken"], "task": "broken"}
    assert logs["never"][-1]["data"]["error"] == "Removed"
    assert [event["type"] for event in await read(redis, "user:ann") if event["type"] != "progress"] == stories["plain"]
    assert code == 130
