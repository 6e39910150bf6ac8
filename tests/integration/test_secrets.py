"""No gateway prints a secret: ``running_gateway`` searches the output of each gateway when it ends, and this tests that search."""

from __future__ import annotations

import httpx
import pytest

from tests.support.servers import running_gateway, secrets_in
from tests.support.tokens import SECRET, make_token
from tests.support.wire import frame, websocket

SETTINGS = {"redis_url": "redis://user:sesame@127.0.0.1:1", "jwt_secret": SECRET}


@pytest.mark.parametrize(
    "shown",
    [make_token(), SECRET, "q3V-" + "Zx_9k" * 7 + "abcd", "redis://user:sesame@h"],
    ids=["token", "secret", "ticket", "password"],  # each process of a run makes tokens of its own
)
def test_a_line_that_shows_a_secret_is_found(shown: str) -> None:
    assert secrets_in(f"first\nGET /ws?x={shown}& HTTP/1.1\nlast", SETTINGS) == [f"GET /ws?x={shown}& HTTP/1.1"]


def test_ordinary_text_is_not_taken_for_a_secret() -> None:
    text = "2026-11-21 04:11:36 WARNING gateway.listener: connection to Redis lost\n" + "a" * 43 + "\n" + "0f" * 32 + "\ntoken=…"

    assert secrets_in(text, SETTINGS) == []


def test_a_gateway_that_prints_a_token_fails_the_test_it_runs_for(shared_redis_url: str) -> None:
    with pytest.raises(AssertionError, match="a secret was shown"), running_gateway(shared_redis_url, before=f"print({make_token()!r})"):
        pass


def test_a_secret_on_the_command_line_fails_it_too(shared_redis_url: str) -> None:
    before = f"secret = {SECRET!r}"

    with pytest.raises(AssertionError, match="a secret was shown"), running_gateway(shared_redis_url, before=before, jwt_secret=SECRET):
        pass


def test_no_line_shows_what_comes_over_a_websocket_at_whatever_level(shared_redis_url: str) -> None:
    token = "q3V-" + "Zx_9k" * 7 + "abcd"
    with running_gateway(shared_redis_url, log_level="debug") as server, websocket(server.port) as wire:
        answer = wire.send(frame(b'{"op":"auth","token":"%b","ref":1}' % token.encode())).message()
        shown = server.output()

    assert answer["op"] == "ready"
    assert token[:20] not in shown


def test_no_line_shows_the_data_of_an_event_that_was_refused(shared_redis_url: str) -> None:
    bodies: list[dict[str, object]] = [{"typ": "reset"}, {"keep": "1"}, {"type": 5}, {"n" * 10_000: 1}]
    with running_gateway(shared_redis_url, log_level="debug") as server:
        details = [
            httpx.post(f"{server.http}/publish", json={"channel": "a", "data": "/once/q3V"} | body).json()["detail"] for body in bodies
        ]
        shown = server.output()

    assert all("/once/q3V" in detail for detail in details)
    assert "unknown field `typ`" in shown
    assert "/once/q3V" not in shown
    assert "n" * 1_000 not in shown
