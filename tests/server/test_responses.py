"""The heads of HTTP responses."""

from __future__ import annotations

import json

import pytest

from gateway.errors import Unavailable
from gateway.server.responses import DefaultFields, accepting_response, problem_response, refusing_response, response_head


def test_a_head_is_written_unchanged() -> None:
    head = response_head(200, ((b"content-type", b"text/plain; charset=utf-8"), (b"X-Empty", b""), (b"x-high", b"\xe9\t")))

    assert head.status_line == b"HTTP/1.1 200 OK\r\n"
    assert head.lines == b"content-type: text/plain; charset=utf-8\r\nX-Empty: \r\nx-high: \xe9\t\r\n"
    assert (head.length, head.closes) == (None, False)


def test_the_length_and_the_connection_header_are_read_from_the_head() -> None:
    assert response_head(200, ((b"Content-Length", b"7"),)).length == 7
    assert response_head(200, ((b"connection", b"Close"),)).closes
    assert response_head(200, ((b"connection", b"upgrade , close"),)).closes
    assert not response_head(426, ((b"connection", b"upgrade"),)).closes


def test_a_status_without_a_phrase_has_none() -> None:
    assert response_head(299, ()).status_line == b"HTTP/1.1 299 \r\n"


@pytest.mark.parametrize(
    "field",
    [
        (b"", b"a"),
        (b"a b", b"c"),
        (b"a:", b"b"),
        (b"a\r\nb", b"c"),
        (b"a", b"b\r\nset-cookie: c"),
        (b"a", b"b\nc"),
        (b"a", b"b\rc"),
        (b"a", b"\x00"),
        (b"a", b"b\r\n\r\nc"),
        (b"\xe9", b"a"),
        (b"content-length", b"many"),
        (b"transfer-encoding", b"chunked"),
    ],
)
def test_an_invalid_header_field_is_refused(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"header|invalid literal"):
        response_head(200, ((b"x", b"y"), field))


def test_the_usual_fields_are_made_when_the_server_makes_new_ones() -> None:
    fields = [(b"date", b"now")]

    assert DefaultFields.lines(fields) == b"date: now\r\n"
    assert DefaultFields.lines(fields) is DefaultFields.lines(fields)
    assert DefaultFields.lines([(b"date", b"then")]) == b"date: then\r\n"


def test_a_problem_is_a_whole_answer_that_nobody_keeps_and_ends_the_connection() -> None:
    head, _, body = problem_response(Unavailable("full", retry_after=7), [(b"date", b"now")]).partition(b"\r\n\r\n")

    assert json.loads(body)["detail"] == "full"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 503 Service Unavailable",
        b"date: now",
        b"content-type: application/problem+json",
        b"content-length: %d" % len(body),
        b"cache-control: no-store",
        b"connection: close",
        b"retry-after: 7",
    ]


def test_an_upgrade_is_accepted_with_the_answer_to_its_key() -> None:
    key = b"dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3

    assert accepting_response(key, [(b"date", b"now")], [(b"x", b"y")]).split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"date: now",
        b"x: y",
        b"",
        b"",
    ]


def test_a_refused_upgrade_gets_the_applications_fields_and_those_it_has_left_out() -> None:
    assert refusing_response(499, [(b"date", b"now")], [(b"Content-Type", b"a/b")], b"no").split(b"\r\n") == [
        b"HTTP/1.1 499 ",
        b"date: now",
        b"Content-Type: a/b",
        b"content-length: 2",
        b"connection: close",
        b"",
        b"no",
    ]
