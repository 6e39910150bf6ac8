"""What all commands have in common: help, wrong usage, errors of Redis."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from redis import Redis

from gateway.cli import main
from gateway.embedded import embedded_server
from tests.support.command import run


@pytest.mark.parametrize(
    "words", [(), *((name,) for name in main.commands), ("tap", "bullmq")], ids=lambda words: " ".join(words) or "none"
)
def test_each_command_has_a_help_text(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")

    assert result.returncode == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("publish", "jobs:1"), "JSON"),
        (("publish", "a b", "1"), "channel 'a b'"),
        (("publish", "jobs:1", "{nope"), "not JSON"),
        (("publish", "jobs:1", "1", "--keep", "0"), "--keep"),
        (("watch",), "CHANNEL"),
        (("doctor", "ftp://a"), "ftp://a"),
        (("doctor", "http://a?token=x"), "http://"),
        (("doctor", "http://a/#/notify"), "http://"),
        (("doctor", "http://a", "--token", ""), "is empty"),
        (("doctor", "http://a", "--token", "é"), "other characters"),
        (("watch", "jobs:1", "--since", "noon"), "cursor 'noon'"),
        (("serve", "--port", "x"), "--port"),
        (("nope",), "nope"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(words: tuple[str, ...], named: str) -> None:
    result = run(*words, redis_url="redis://127.0.0.1:1")

    assert result.returncode == 2
    assert named in result.stderr


@pytest.mark.parametrize("words", [("publish", "jobs:1", "1"), ("watch", "jobs:1"), ("check",)])
def test_a_redis_that_is_away_is_an_error_of_one_line(words: tuple[str, ...]) -> None:
    result = run(*words, redis_url="redis://127.0.0.1:1", auth="none")

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "GATEWAY_REDIS_URL: Redis does not answer" in result.stderr


def test_a_redis_that_wants_a_password_says_so() -> None:
    with embedded_server() as url, Redis.from_url(url) as redis:
        redis.config_set("requirepass", "s3cret")
        results = [run(*words, redis_url=url, auth="none") for words in (("publish", "jobs:1", "1"), ("check",))]

    for result in results:
        assert result.returncode == 1
        assert "GATEWAY_REDIS_URL: Redis wants another user or password" in result.stderr


@pytest.mark.parametrize(("wish", "terminal", "coloured"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)])
def test_a_terminal_without_colours_gets_none(wish: str, terminal: str, coloured: bool) -> None:
    result = CliRunner().invoke(main, ["check"], env={"NO_COLOR": wish, "TERM": terminal, "GATEWAY_PORT": "x"}, color=True)

    assert "GATEWAY_PORT: 'x' is wrong" in result.output
    assert ("\x1b[" in result.output) == coloured
