"""Complete HTTP responses and problems."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from gateway.errors import MethodNotAllowed, Unauthorized, Unavailable
from gateway.transports.answers import answer, answer_json, answer_problem, check_method


class Sent:
    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


async def test_an_answer_says_its_type_and_length_and_is_not_kept() -> None:
    sent = Sent()
    await answer_json(sent, {"a": 1})

    assert sent.headers[b"content-type"] == b"application/json"
    assert sent.headers[b"content-length"] == b"7"
    assert sent.headers[b"cache-control"] == b"no-store"
    assert sent.headers[b"x-content-type-options"] == b"nosniff"


async def test_204_has_no_body_and_says_none() -> None:
    sent = Sent()
    await answer(sent, 204, b"", b"")

    assert sent.status == 204
    assert not {b"content-type", b"content-length"} & sent.headers.keys()


async def test_a_problem_may_say_when_to_retry() -> None:
    sent = Sent()
    await answer_problem(sent, Unavailable("Redis is away", retry_after=3))

    assert (sent.status, sent.headers[b"retry-after"]) == (503, b"3")
    assert sent.headers[b"content-type"] == b"application/problem+json"
    assert json.loads(sent.messages[1]["body"])["detail"] == "Redis is away"


async def test_a_token_that_is_no_good_is_told_from_none() -> None:
    none, bad = Sent(), Sent()
    await answer_problem(none, Unauthorized("no token", has_token=False))
    await answer_problem(bad, Unauthorized("the token has expired"))

    assert (none.status, none.headers[b"www-authenticate"]) == (401, b"Bearer")
    assert (bad.status, bad.headers[b"www-authenticate"]) == (401, b'Bearer error="invalid_token"')


async def test_a_wrong_method_is_answered_with_the_right_one() -> None:
    sent = Sent()
    check_method({"method": "GET"}, "GET", "HEAD")
    with pytest.raises(MethodNotAllowed, match="'PUT': GET or HEAD is expected") as caught:
        check_method({"method": "PUT"}, "GET", "HEAD")
    await answer_problem(sent, caught.value)

    assert (sent.status, sent.headers[b"allow"]) == (405, b"GET, HEAD")
