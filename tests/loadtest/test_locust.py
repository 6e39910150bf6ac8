"""The load test itself: it passes a gateway that keeps its guarantees, and fails one that does not."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

from tests.conftest import need
from tests.loadtest.meddler import Fault, Meddler
from tests.support.servers import running_gateway

ROOT = Path(__file__).parent.parent.parent


async def locust(host: str, *arguments: str) -> tuple[int | None, str]:
    """Run the load test without its web page; its exit code and output."""
    need(importlib.util.find_spec("locust"), "locust: uv sync --group loadtest")
    command = ["-m", "locust", "-f", "loadtest/locustfile.py", "--host", host, "--headless", "--only-summary", *arguments]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 110)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode()


async def test_a_gateway_that_keeps_its_promises_passes_under_churn_and_storms(shared_redis_url: str) -> None:
    with running_gateway(shared_redis_url) as gateway:
        options = ("-u", "20", "-r", "20", "-t", "4s", "--rate", "20", "--job-seconds", "1", "--churn", "2", "--storm", "2")
        code, output = await locust(gateway.http, *options, "--patience", "30")

    assert code == 0, output
    assert "none lost, none twice" in output


async def test_a_gateway_that_loses_or_doubles_an_event_fails(shared_redis_url: str) -> None:
    async def run(fault: Fault, *others: str) -> tuple[int | None, str]:
        async with Meddler(gateway.port, fault) as meddler:
            options = ("-u", "4", "-r", "20", "-t", "3s", "--rate", "20", "--redis-url", shared_redis_url, *others)
            return await locust(meddler.host, *options, "WebSocketFollower", "Publisher")

    several = ("--processes", "2", "--patience", "1")  # only seen at the end, when locust is stopping its processes
    with running_gateway(shared_redis_url) as gateway:
        losing, doubling, silent = await asyncio.gather(run("lose"), run("double"), run("fall silent", *several))
        if "without reporting" in silent[1]:  # on a busy machine locust may take its own processes for dead; alone they have it easier
            silent = await run("fall silent", *several)

    assert losing[0] == 1, losing[1]
    assert " lost" in losing[1].partition("FAILED")[2]
    assert doubling[0] == 1, doubling[1]
    assert " twice" in doubling[1].partition("FAILED")[2]
    assert silent[0] == 1, silent[1]
    assert " lost" in silent[1].partition("FAILED")[2]
