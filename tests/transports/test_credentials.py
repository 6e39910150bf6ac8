"""Credentials: which one of a request counts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.transports.credentials import Credential, find_credential


def scope(query: str = "", *headers: tuple[str, str]) -> dict[str, Any]:
    return {"query_string": query.encode(), "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers]}


@pytest.mark.parametrize(
    ("request_scope", "expected"),
    [
        (scope(), None),
        (scope("", ("authorization", "Bearer abc")), Credential("bearer", "abc")),
        (scope("", ("authorization", "bEARER  abc ")), Credential("bearer", "abc")),
        (scope("", ("authorization", "Basic abc")), None),
        (scope("", ("authorization", "Bearer")), Credential("bearer", "")),
        (scope("channel=a&token=abc"), Credential("url", "abc")),
        (scope("token=a%2Eb"), Credential("url", "a.b")),
        (scope("ticket=abc"), Credential("ticket", "abc")),
        (scope("", ("cookie", "a=1; notify_token=abc; b")), Credential("cookie", "abc")),
        (scope("", ("cookie", "a=1"), ("cookie", 'notify_token="abc"')), Credential("cookie", "abc")),
        (scope("", ("cookie", "xnotify_token=abc; notify_token2=d")), None),
        (scope("token=abc", ("cookie", "notify_token=def")), Credential("url", "abc")),
        (scope("token=abc", ("authorization", "Basic abc")), Credential("url", "abc")),
        (scope("token=abc&token=abc"), Credential("url", "abc")),
    ],
)
def test_explicit_credentials_come_before_the_cookie(request_scope: dict[str, Any], expected: Credential | None) -> None:
    assert find_credential(request_scope) == expected


@pytest.mark.parametrize(
    "request_scope",
    [
        scope("token=secret1&token=secret2"),
        scope("token=secret1&ticket=secret2"),
        scope("token=secret1", ("authorization", "Bearer secret2")),
        scope("", ("authorization", "Bearer secret1"), ("authorization", "Bearer secret2")),
        scope("", ("cookie", "notify_token=secret1; notify_token=secret2")),
    ],
)
def test_two_different_credentials_are_refused_and_not_quoted(request_scope: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="one is expected") as error:
        find_credential(request_scope)

    assert "secret" not in error.value.detail


def test_a_credential_does_not_show_its_text() -> None:
    assert "abc" not in repr(Credential("url", "abc"))
