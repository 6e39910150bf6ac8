"""Each of our parsers accepts any text or JSON, or refuses it with one of our errors, in little time."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.event import MAX_CURSOR, Malformed, channel_problem, parse_announcement, parse_cursor, parse_entry, parse_published, show
from gateway.errors import BadRequest, GatewayError
from gateway.transports.publish import _parse_posted
from gateway.transports.request import StreamRequest, parse_request, parse_since, wait_seconds
from gateway.transports.websocket import close_reason

ascii_bytes = st.text(st.characters(max_codepoint=127), max_size=60).map(str.encode)
pieces = st.sampled_from(
    [b"channel=", b"since=", b"until=final", b"lastEventId=", b"&", b",", b"%", b"%ff", b"a", b"0", b"last", b"+", b"="]
)
queries = st.lists(st.one_of(pieces, ascii_bytes), max_size=12).map(b"".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
fields = st.dictionaries(st.sampled_from(["channel", "type", "data", "final", "key", "keep", "ttl", "collapse", "live", "id"]), values)
bodies = st.one_of(fields.map(json.dumps).map(str.encode), values.map(json.dumps).map(str.encode), st.binary(max_size=100))


@given(queries, st.one_of(st.none(), ascii_bytes))
def test_a_query_asks_for_valid_channels_or_is_refused(query: bytes, last_id: bytes | None) -> None:
    scope = {"query_string": query, "headers": [] if last_id is None else [(b"last-event-id", last_id)]}
    try:
        request = parse_request(scope, 3)
    except BadRequest as error:
        shown = error.detail
        request = StreamRequest({}, until_final=False, resumed=False)
    else:
        shown = ""

    assert shown.isascii()
    assert len(shown) < 300
    assert len(request.channels) <= 3
    assert all(channel_problem(name) is None for name in request.channels)
    assert all(since in ("last", "now") or 0 <= since <= MAX_CURSOR for since in request.channels.values())  # type: ignore[operator]


@given(st.text(max_size=40))
def test_a_cursor_is_a_number_in_its_bounds_or_is_refused(text: str) -> None:
    for parse in (parse_cursor, parse_since):
        try:
            cursor = parse(text)
        except (Malformed, BadRequest):
            continue
        assert cursor in ("last", "now") or (isinstance(cursor, int) and 0 <= cursor <= MAX_CURSOR and text.isascii())


@given(queries, ascii_bytes)
def test_a_wait_is_at_most_60_seconds(query: bytes, prefer: bytes) -> None:
    for scope in ({"query_string": query, "headers": []}, {"query_string": b"", "headers": [(b"prefer", b"wait=" + prefer)]}):
        try:
            assert 0 <= wait_seconds(scope) <= 60
        except BadRequest as error:
            assert error.status == 400  # noqa: PT017 - either is right


@given(bodies)
def test_a_body_is_an_event_or_is_refused(body: bytes) -> None:
    posted = _parse_posted(body)

    assert posted.status in (400, 422) if isinstance(posted, GatewayError) else isinstance(posted.channels, list)


@given(bodies)
def test_what_is_published_becomes_json_for_clients_or_is_refused(body: bytes) -> None:
    for read in (
        parse_published,
        lambda data: parse_announcement("a", b"1795215462557031 4\n" + data),
        lambda data: parse_announcement("a", data),
        lambda data: parse_entry("a", b"1795215462557031 62557030 x\n" + data),
        lambda data: parse_entry("a", data),
    ):
        try:
            event: Any = read(body)
        except Malformed as error:
            assert "\n" not in str(error)  # noqa: PT017 - either is right
            continue
        if hasattr(event, "json"):
            sent = json.loads(event.json)
            assert sent["channel"] == "a"
            assert sent.get("id") in (None, "1795215462557031")


@given(st.text())
def test_a_close_reason_fits_into_its_frame(text: str) -> None:
    try:
        assert len(close_reason(text).encode()) <= 123
    except UnicodeEncodeError:
        assert any("\ud800" <= character <= "\udfff" for character in text)


@given(st.one_of(values, st.binary(), st.text()))
def test_a_strangers_value_is_shown_in_one_short_line(value: Any) -> None:
    shown = show(value)

    assert len(shown) <= 80
    assert shown.isascii()
    assert shown.isprintable()
