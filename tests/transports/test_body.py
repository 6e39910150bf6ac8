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
    assert await read_body(scope(content_length="2"), Parts(b"{", b"}"), 2) == b"{}"


async def test_a_body_whose_length_is_too_large_is_not_read() -> None:
    parts = Parts(b"x")

    for length in ("11", "9" * 5_000):
        with pytest.raises(TooLarge):
            await read_body(scope(content_length=length), parts, 10)
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
    assert await read_body(scope(content_encoding="Identity"), Parts(b"{}"), 10) == b"{}"


@pytest.mark.parametrize("kind", ["Application/JSON; charset=utf-8", "application/json ;charset=utf-8", "application/problem+json"])
async def test_a_content_type_of_json_is_taken(kind: str) -> None:
    assert await read_body(scope(content_type=kind), Parts(b"{}"), 10) == b"{}"


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "image/svg+json"])
async def test_another_content_type_than_json_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMedia, match=kind.replace("+", r"\+")):
        await read_body(scope(content_type=kind), Parts(b"{}"), 10)


async def test_a_body_that_is_not_utf_8_is_refused() -> None:
    assert await read_body(scope(), Parts('"é"'.encode()), 10) == b'"\xc3\xa9"'
    with pytest.raises(BadRequest, match="byte 1 is not UTF-8"):
        await read_body(scope(), Parts(b'"\xe9"'), 10)


async def test_the_memory_of_all_bodies_together_is_bounded() -> None:
    budget = MemoryBudget(10)

    with budget.request() as one, budget.request() as other:
        await read_body(scope(), Parts(b"xxx", b"xxx"), 10, one)
        with pytest.raises(Unavailable, match="10"):
            await read_body(scope(), Parts(b"xxx", b"xxx"), 10, other)
    with budget.request() as whole:
        assert await read_body(scope(), Parts(b"x" * 10), 10, whole) == b"x" * 10
    with budget.request() as more, pytest.raises(Unavailable):
        await read_body(scope(), Parts(b"x" * 11), 11, more)
