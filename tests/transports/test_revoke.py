"""``POST /revoke``: which bodies are accepted."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, Unprocessable
from gateway.transports.revoke import parse_order


def test_a_subject_or_a_token_is_revoked() -> None:
    assert parse_order(b'{"sub":"ann"}').sub == "ann"
    assert parse_order(b'{"jti":"t1"}').jti == "t1"


@pytest.mark.parametrize(
    "body",
    [
        *(b"{}", b'{"sub":null}', b'{"sub":"a","jti":"b"}', b'{"sub":""}', b'{"sub":"a\\n"}', b'{"sub":1}', b'"ann"', b'{"s":1}', b"[]"),
        *(b"[" * 3000, b'{"sub":' + b"[" * 3000, b'{"s":' + b"[" * 3000),
        b'{"sub":"' + b"x" * 256 + b'"}',
    ],
)
def test_anything_else_breaks_the_rules(body: bytes) -> None:
    with pytest.raises(Unprocessable, match="sub"):
        parse_order(body)


@pytest.mark.parametrize("body", [b"", b"{", b'{"sub":"a"', b'{"sub":"a"}}'])
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_order(body)
