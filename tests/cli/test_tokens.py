"""``gateway token``, and that no command shows a secret."""

from __future__ import annotations

import time
import uuid

import httpx
import jwt
import pytest

from tests.support.command import invoke, run
from tests.support.processes import processes
from tests.support.servers import running_gateway
from tests.support.tokens import SECRET


def test_it_prints_a_token_that_says_what_was_asked_for() -> None:
    result = run(
        *("token", "--sub", "ann", "--subscribe", "jobs:*", "--subscribe", "a", "--publish", "b", "--admin", "--ttl", "900"),
        jwt_secret=SECRET,
        jwt_audience="gateway",
        jwt_issuer="app",
    )
    claims = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"], audience="gateway", issuer="app")

    assert (claims["sub"], claims["subscribe"], claims["publish"], claims["admin"]) == ("ann", ["jobs:*", "a"], ["b"], True)
    assert claims["exp"] - time.time() == pytest.approx(900, abs=20)


def test_without_the_secret_it_says_what_is_missing() -> None:
    result = invoke("token", "--sub", "ann")

    assert result.exit_code == 1
    assert "GATEWAY_JWT_SECRET: not set" in result.output


@pytest.mark.parametrize(
    "words",
    [
        *((), ("--sub", ""), ("--sub", "a\nb"), ("--sub", "a", "--subscribe", "a*b")),
        *(("--sub", "a", "--ttl", seconds) for seconds in ("0", "nan", "inf", "1e300")),
    ],
)
def test_wrong_usage_exits_with_2_and_shows_no_secret(words: tuple[str, ...]) -> None:
    result = invoke("token", *words, jwt_secret=SECRET)

    assert result.exit_code == 2
    assert SECRET not in result.output


def test_several_processes_are_given_the_secret_and_show_it_to_nobody(shared_redis_url: str) -> None:
    secret = uuid.uuid4().hex  # a secret of its own, because another test that runs at the same time shows the usual one on purpose
    token = run("token", "--sub", "ann", jwt_secret=secret).stdout.strip()
    with running_gateway(shared_redis_url, "--workers", "2", auth="jwt", jwt_secret=secret, log_level="debug") as server:
        statuses = {httpx.get(f"{server.http}/poll?channel=user:ann&wait=0&token={token}").status_code for _ in range(6)}
        commands = "\n".join(process.command for process in processes())
        output = server.output()

    assert statuses == {200}
    assert "gateway serve" in commands
    assert secret not in commands
    assert secret not in output
    assert token not in output
