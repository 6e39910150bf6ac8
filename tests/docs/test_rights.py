"""The access rights that the operations page names are enough, for all that a gateway does."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from redis import Redis

from tests.support.servers import running_gateway

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_a_gateway_lives_with_the_rights_that_are_documented(redis_url: str) -> None:
    found = re.search(r"Access rights the gateway needs: `([^`]+)`", PAGE.read_text())
    assert found
    with Redis.from_url(redis_url, protocol=3) as redis:
        redis.execute_command("ACL", "SETUSER", "gateway", "on", ">secret", *found[1].split())

        with running_gateway(redis_url.replace("://", "://gateway:secret@")) as server:
            ticket = httpx.post(f"{server.http}/tickets").json()["ticket"]
            statuses = [
                httpx.post(f"{server.http}/publish", json={"channel": "jobs:1", "data": 1, "key": "k", "collapse": "c"}).status_code,
                httpx.post(f"{server.http}/publish", json=[{"channel": "jobs:1", "live": True}, {"channel": "a"}]).status_code,
                httpx.get(f"{server.http}/poll", params={"channel": "jobs:1", "since": "0", "wait": "0"}).status_code,
                httpx.get(f"{server.http}/poll", params={"channel": "jobs:1", "wait": "0", "ticket": ticket}).status_code,
                httpx.post(f"{server.http}/revoke", json={"sub": "ann"}).status_code,
            ]

        assert statuses == [200] * 5
        # redis-py sends this one, and works without it; Redis 7.0 does not know it, and refuses a user definition that names it.
        assert {entry[b"object"] for entry in redis.execute_command("ACL", "LOG")} <= {b"client|setinfo"}
