"""``issue_token``, with which a backend makes tokens."""

from __future__ import annotations

import time

import jwt
import pytest
from notify_client import issue_token

SECRET = "this secret has thirty-two bytes"


def claims(token: str) -> dict[str, object]:
    assert "=" not in token  # RFC 7515, section 2; some libraries take it all the same
    return jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_aud": False})


def test_a_token_is_one_that_a_jwt_library_accepts() -> None:
    now = time.time()

    found = claims(issue_token(SECRET, "ann", subscribe=["jobs:42", "user:ann"], publish=("x:*",), ttl=60, aud="gateway", jti="t1"))

    assert found["sub"] == "ann"
    assert found["subscribe"] == ["jobs:42", "user:ann"]
    assert found["publish"] == ["x:*"]
    assert (found["aud"], found["jti"]) == ("gateway", "t1")
    assert found["exp"] == pytest.approx(now + 60, abs=5)
    assert found["iat"] == pytest.approx(now, abs=5)


def test_a_claim_that_is_not_given_is_left_out() -> None:
    assert set(claims(issue_token(SECRET, "ann"))) == {"sub", "iat", "exp"}
    assert claims(issue_token(SECRET, "ann", subscribe=[]))["subscribe"] == []


@pytest.mark.parametrize("channel", ["*", "jobs:*", "jobs:42", "user:ann@example.com", "x" * 128 + "*"])
def test_a_channel_is_a_name_or_the_beginning_of_one(channel: str) -> None:
    assert claims(issue_token(SECRET, "ann", subscribe=[channel]))["subscribe"] == [channel]


def test_a_subject_may_be_any_text() -> None:
    assert claims(issue_token(SECRET, "Zoë|✓"))["sub"] == "Zoë|✓"


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((SECRET[1:], "ann"), {}, "32 bytes"),
        ((SECRET, ""), {}, "sub"),
        ((SECRET, 42), {}, r"sub 42: .* such as str\(user.id\)"),
        ((SECRET, "x" * 256), {}, "sub"),
        ((SECRET, "ann\n"), {}, "sub"),
        ((SECRET, "ann"), {"ttl": 0}, "ttl"),
        ((SECRET, "ann"), {"ttl": float("nan")}, "ttl"),
        ((SECRET, "ann"), {"ttl": float("inf")}, "ttl"),
        ((SECRET, "ann"), {"subscribe": "jobs:*"}, "a list"),
        ((SECRET, "ann"), {"subscribe": ["jobs:42", "jobs:*:end"]}, r"subscribe 'jobs:\*:end': the name of a channel"),
        ((SECRET, "ann"), {"subscribe": ["user:ann+bob@example.com"]}, "subscribe"),
        ((SECRET, "ann"), {"publish": [42]}, "publish 42"),
    ],
)
def test_a_mistake_is_named_and_the_secret_is_not(arguments, options, error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error) as raised:
        issue_token(*arguments, **options)

    assert arguments[0] not in str(raised.value)
