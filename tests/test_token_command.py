"""``gateway token``, and that ``gateway serve`` does not start without a key."""

from __future__ import annotations

import time

import jwt
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.support.servers import running_gateway
from tests.support.tokens import SECRET
from tests.test_cli import run


def invoke(*words: str, **settings: str) -> Result:
    """As ``run``, within this process: starting one takes longer than all else."""
    return CliRunner().invoke(main, words, env={f"GATEWAY_{name.upper()}": value for name, value in settings.items()})


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
    assert "GATEWAY_JWT_SECRET: not set" in result.stderr


@pytest.mark.parametrize(
    "words", [(), ("--sub", ""), ("--sub", "a\nb"), ("--sub", "a", "--subscribe", "a*b"), ("--sub", "a", "--ttl", "0")]
)
def test_wrong_usage_exits_with_2_and_shows_no_secret(words: tuple[str, ...]) -> None:
    result = invoke("token", *words, jwt_secret=SECRET)

    assert result.exit_code == 2
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "GATEWAY_AUTH: jwt, and no key for it"),
        ({"auth": "jwt"}, "GATEWAY_AUTH: jwt, and no key for it"),
        ({"jwt_secret": "short-and-secret"}, "GATEWAY_JWT_SECRET: the value is wrong: at least 32 bytes, and no PEM key, is expected"),
        ({"jwt_public_key": "-----BEGIN PRIVATE KEY-----\nshort-and-secret"}, "GATEWAY_JWT_PUBLIC_KEY: the value is wrong: a public key"),
        ({"jwt_secret": SECRET, "jwks_url": "https://id.example/keys"}, "GATEWAY_JWT_SECRET, GATEWAY_JWKS_URL: 2 keys"),
        ({"jwks_url": "https://user:short-and-secret@id.example/"}, "GATEWAY_JWKS_URL"),
        ({"authorize_url": "ftp://app.example/"}, "GATEWAY_AUTHORIZE_URL"),
        ({"auth": "none", "host": "0.0.0.0"}, "loopback"),
    ],
)
def test_serve_does_not_start_without_a_way_to_know_its_callers(settings: dict[str, str], said: str) -> None:
    result = invoke("serve", redis_url="redis://127.0.0.1:1", **settings)

    assert result.exit_code == 1
    assert said in result.stderr
    assert SECRET not in result.stderr


def test_several_processes_are_given_the_secret_and_show_it_to_nobody(shared_redis_url: str) -> None:
    import subprocess

    import httpx

    token = run("token", "--sub", "ann", jwt_secret=SECRET).stdout.strip()
    with running_gateway(shared_redis_url, "--workers", "2", auth="jwt", jwt_secret=SECRET, log_level="debug") as server:
        statuses = {httpx.get(f"{server.http}/poll?channel=user:ann&wait=0&token={token}").status_code for _ in range(6)}
        processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        output = server.output()

    assert statuses == {200}
    assert "gateway serve" in processes
    assert SECRET not in processes
    assert SECRET not in output
    assert token not in output
