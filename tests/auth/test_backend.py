"""The authorizing backend: how its answers are understood, and that only a valid one grants access."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.auth import backend as module
from gateway.auth import fetch
from gateway.auth.backend import FAILURES, Backend
from gateway.errors import BadRequest, Forbidden, Unauthorized, Unavailable
from tests.support.answering import Answering, answering
from tests.support.slowness import slowness

YES = {"sub": "ann", "subscribe": ["jobs:42"], "expires_in": 60}


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as server:
        server.answer = (200, json.dumps(YES).encode())
        yield server


@pytest.fixture
async def backend(server: Answering) -> AsyncIterator[Backend]:
    backend = Backend(server.url)
    task = asyncio.ensure_future(backend.run())
    await asyncio.sleep(0)
    yield backend
    task.cancel()
    await asyncio.wait([task])


async def test_it_is_asked_with_the_callers_headers_and_channels(backend: Backend, server: Answering) -> None:
    grant = await backend.ask(b"session=1; b=\xe9", b"Basic eA==", ["jobs:42", "jobs:43"])

    headers, body = server.requests[0]
    assert (headers["cookie"], headers["authorization"], headers["content-type"]) == ("session=1; b=é", "Basic eA==", "application/json")
    assert json.loads(body) == {"channels": ["jobs:42", "jobs:43"]}
    assert (grant.subject, grant.may_read("jobs:42"), grant.may_read("jobs:43"), grant.may_publish("jobs:42")) == (
        "ann",
        True,
        False,
        False,
    )
    assert 55 < grant.expires - time.time() <= 60
    assert not grant.admin


async def test_a_header_that_was_not_sent_is_not_made_up(backend: Backend, server: Answering) -> None:
    await backend.ask(None, b"Bearer x", [])

    assert "cookie" not in server.requests[0][0]


async def test_it_may_allow_to_publish(backend: Backend, server: Answering) -> None:
    server.answer = (200, json.dumps(YES | {"publish": ["jobs:*"], "admin": True}).encode())

    grant = await backend.ask(b"a=1", None, [])

    assert grant.may_publish("jobs:1")
    assert not grant.admin


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Forbidden)])
async def test_a_refusal_of_the_backend_is_a_refusal(backend: Backend, server: Answering, status: int, error: type[Exception]) -> None:
    server.answer = (status, json.dumps(YES).encode())

    for _ in range(2 * FAILURES):  # and no sign of an illness
        with pytest.raises(error):
            await backend.ask(b"a=1", None, [])


@pytest.mark.parametrize(
    "answer",
    [
        (200, b""),
        (200, b"true"),
        (200, b"\xff"),
        (200, b"[" * 10_000),
        (200, json.dumps(YES | {"sub": ""}).encode()),
        (200, json.dumps(YES | {"sub": 5}).encode()),
        (200, json.dumps(YES | {"subscribe": "jobs:*"}).encode()),
        (200, json.dumps(YES | {"subscribe": ["a*b"]}).encode()),
        (200, json.dumps(YES | {"expires_in": 0}).encode()),
        (200, json.dumps(YES | {"expires_in": 1e300}).encode()),
        (200, json.dumps(YES | {"expires_in": "60"}).encode()),
        (200, json.dumps({"sub": "ann", "subscribe": ["*"]}).encode()),
        (200, json.dumps(YES | {"pad": "x" * 300_000}).encode()),
        (201, json.dumps(YES).encode()),
        (204, b""),
        (302, b""),
        (404, b""),
        (500, json.dumps(YES).encode()),
    ],
)
async def test_any_other_answer_of_the_backend_is_a_503(backend: Backend, server: Answering, answer: Any) -> None:
    server.answer = answer

    with pytest.raises(Unavailable, match="GATEWAY_AUTHORIZE_URL"):
        await backend.ask(b"a=1", None, [])


@pytest.mark.parametrize("status", [429, 503])
async def test_a_backend_that_fails_is_left_alone_for_a_while(
    backend: Backend, server: Answering, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(module, "PAUSE", (60, 60))
    server.answer = (status, b"")
    for _ in range(20):
        with pytest.raises(Unavailable):
            await backend.ask(b"a=1", None, [])
    assert len(server.requests) == FAILURES

    server.answer = (200, json.dumps(YES).encode())
    backend._breaker._paused_until = time.monotonic()
    assert (await backend.ask(b"a=1", None, [])).subject == "ann"
    assert (await backend.ask(b"a=1", None, [])).subject == "ann"


@pytest.mark.parametrize(
    "answer",
    [
        (431, b""),
        (500, b""),
        (302, b""),
        (200, b"<html>"),
        (200, json.dumps(YES | {"sub": "a\n"}).encode()),
        (200, json.dumps(YES | {"subscribe": ["user:a b"]}).encode()),
        (200, json.dumps(YES | {"pad": "x" * 300_000}).encode()),
    ],
)
async def test_failures_for_one_caller_do_not_pause_the_backend_for_others(backend: Backend, server: Answering, answer: Any) -> None:
    good = server.answer
    server.answer = answer
    for _ in range(2 * FAILURES):
        with pytest.raises(Unavailable, match="neither"):
            await backend.ask(b"a=1", None, [])
    server.answer = good

    assert (await backend.ask(b"a=2", None, [])).subject == "ann"


def test_the_pause_doubles_with_each_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    breaker, pauses = module.Breaker(), []
    for _ in range(FAILURES):
        breaker.failed("no answer")
    for _ in range(7):
        pauses.append(breaker._paused_until - now)
        now = breaker._paused_until
        breaker.check()  # one tries
        with pytest.raises(Unavailable):
            breaker.check()  # the others wait for what comes of it
        breaker.failed("no answer")
        breaker.failed("no answer, to one who asked before")

    assert pauses == [1, 2, 4, 8, 16, 30, 30]


async def test_a_backend_that_hangs_is_given_up_in_time(backend: Backend, server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (module, fetch):
        monkeypatch.setattr(each, "ANSWER_SECONDS", 0.2)
    server.delay = 1
    started = time.monotonic()

    results = await asyncio.gather(*(backend.ask(b"a=1", None, []) for _ in range(100)), return_exceptions=True)

    assert all(isinstance(result, Unavailable) for result in results)
    assert time.monotonic() - started < 0.8 * slowness()
    assert len(server.requests) < 2 * module.IN_FLIGHT  # a place that is given up in time may be taken once more


async def test_the_number_of_waiting_callers_is_bounded(backend: Backend, server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 10 - module.IN_FLIGHT)
    for each in (module, fetch):
        monkeypatch.setattr(each, "ANSWER_SECONDS", 30)  # so that a busy machine makes none of them give up
    server.delay = 0.1

    results = await asyncio.gather(*(backend.ask(b"a=1", None, []) for _ in range(15)), return_exceptions=True)

    assert sum(isinstance(result, Unavailable) for result in results) == 5


async def test_a_callers_invalid_header_is_no_failure_of_the_backend(backend: Backend, server: Answering) -> None:
    for _ in range(2 * FAILURES):
        with pytest.raises(BadRequest):
            await backend.ask(b"a=\x00", None, [])

    assert (await backend.ask(b"a=1", None, [])).subject == "ann"


async def test_a_callers_invalid_header_uses_up_no_attempt(backend: Backend, server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", (60, 60))
    good, server.answer = server.answer, (503, b"")
    for _ in range(FAILURES):
        with pytest.raises(Unavailable):
            await backend.ask(b"a=1", None, [])
    server.answer = good
    backend._breaker._paused_until = time.monotonic()

    with pytest.raises(BadRequest):
        await backend.ask(b"a=\x00", None, [])
    assert (await backend.ask(b"a=1", None, [])).subject == "ann"


async def test_the_backend_is_not_asked_before_the_client_runs(server: Answering) -> None:
    with pytest.raises(Unavailable):
        await Backend(server.url).ask(b"a=1", None, [])
