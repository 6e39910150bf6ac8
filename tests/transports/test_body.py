"""Reading a request's body, which is refused as early as possible."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest, TooLarge, Unavailable, UnsupportedMedia
from gateway.transports.body import MemoryBudget, read_body


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


class Parts:
    """Gives a body in parts, and counts how many were asked for."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.asked = 0

    async def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}


async def test_a_body_comes_in_parts() -> None:
    assert await read_body(scope(content_type="application/json; charset=utf-8"), Parts(b"{", b"}"), 10) == b"{}"


async def test_a_body_whose_length_is_too_large_is_not_read() -> None:
    parts = Parts(b"x")

    with pytest.raises(TooLarge):
        await read_body(scope(content_length="11"), parts, 10)
    assert parts.asked == 0


async def test_a_body_that_turns_out_too_large_is_not_read_further() -> None:
    parts = Parts(*[b"xxxx"] * 10)

    with pytest.raises(TooLarge):
        await read_body(scope(), parts, 10)
    assert parts.asked == 3


async def test_a_body_that_ends_too_early_is_refused_though_it_may_be_json() -> None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    with pytest.raises(BadRequest, match="incomplete"):
        await read_body(scope(content_length="3"), receive, 10)


async def test_a_body_that_is_compressed_is_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="gzip"):
        await read_body(scope(content_encoding="gzip"), Parts(b"{}"), 10)
    assert await read_body(scope(content_encoding="identity"), Parts(b"{}"), 10) == b"{}"


async def test_another_content_type_than_json_is_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="text/plain"):
        await read_body(scope(content_type="text/plain"), Parts(b"{}"), 10)


async def test_the_memory_of_all_bodies_together_is_bounded() -> None:
    budget = MemoryBudget(10)

    with budget.request() as one, budget.request() as other:
        await read_body(scope(), Parts(b"xxx", b"xxx"), 10, one)
        with pytest.raises(Unavailable, match="10"):
            await read_body(scope(), Parts(b"xxx", b"xxx"), 10, other)
    with budget.request() as whole:
        assert await read_body(scope(), Parts(b"x" * 10), 10, whole) == b"x" * 10
