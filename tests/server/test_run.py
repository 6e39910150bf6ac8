"""Serving, in one process and in several."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

import pytest
from redis.asyncio import Redis

from gateway.server.run import bind
from gateway.settings import Settings
from tests.conftest import publisher
from tests.support.clients import ids, take, websocket
from tests.support.servers import running_gateway


def test_the_listening_socket_is_bound_at_once() -> None:
    with bind(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bind(Settings(port=port))


async def test_several_workers_give_the_same_events(redis_url: str, redis: Redis) -> None:
    with running_gateway(redis_url, "--workers", "3") as server:
        publish = publisher(redis)
        first = await publish("jobs:1", "started")
        following = [asyncio.ensure_future(take(websocket(server.http, "channel=jobs:1&since=0"), 2)) for _ in range(20)]
        await asyncio.sleep(0.5)
        second = await publish("jobs:1", "completed", final=True)

        assert [ids(messages) for messages in await asyncio.gather(*following)] == [[first, second]] * 20


def test_a_worker_that_dies_is_replaced(redis_url: str) -> None:
    with running_gateway(redis_url, "--workers", "2") as server:
        listed = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True).stdout.split()
        for pid in listed:
            command = subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, text=True, check=False).stdout
            if "spawn_main" in command:
                os.kill(int(pid), signal.SIGKILL)
        server.wait_ready(20)
