"""The query and headers of a request: channels, cursors, and options."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.claims import check_claims
from gateway.core.grant import Grant
from gateway.errors import BadRequest, Forbidden
from gateway.transports.request import check_readable, header, headers, parse_request, parse_since, query, wait_seconds


def scope(query_string: str = "", *sent: tuple[str, str]) -> dict[str, Any]:
    return {
        "query_string": query_string.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent],
    }


def channels(query_string: str, *sent: tuple[str, str]) -> dict[str, Any]:
    return parse_request(scope(query_string, *sent), 128).channels


def test_without_a_cursor_a_channel_begins_at_its_newest_event() -> None:
    assert channels("channel=jobs:42&channel=user:ann") == {"jobs:42": "last", "user:ann": "last"}


def test_since_is_for_channels_without_a_cursor_of_their_own() -> None:
    assert channels("channel=a&channel=b,5&since=0") == {"a": 0, "b": 5}
    assert channels("since=now&channel=a&channel=b,last") == {"a": "now", "b": "last"}


def test_the_last_event_id_outranks_since_and_what_is_older() -> None:
    last = ("last-event-id", "7")

    assert channels("channel=a&channel=b,5&channel=c,9&since=0", last) == {"a": 7, "b": 7, "c": 9}
    assert channels("channel=a&lastEventId=7") == channels("channel=a&last_event_id=7") == {"a": 7}
    assert channels("channel=a", ("last-event-id", "")) == {"a": "last"}


def test_the_header_of_a_browser_that_comes_back_outranks_what_the_page_wrote_into_the_address() -> None:
    assert channels("channel=a&lastEventId=5", ("last-event-id", "7")) == {"a": 7}
    assert channels("channel=a&lastEventId=5", ("last-event-id", "")) == {"a": 5}
    with pytest.raises(BadRequest, match="cursor 'x'"):
        channels("channel=a&lastEventId=5", ("last-event-id", "x"))


def test_a_wrong_cursor_names_its_channel() -> None:
    with pytest.raises(BadRequest, match=r"^channel 'b': cursor 'x'") as refused:
        channels("channel=a,5&channel=b,x")

    assert refused.value.channel == "b"
    with pytest.raises(BadRequest, match=r"^cursor 'x'") as refused:
        channels("channel=a&since=x")
    assert refused.value.channel is None


def test_a_client_with_a_cursor_has_been_here_before() -> None:
    assert not parse_request(scope("channel=a&since=0"), 128).resumed
    assert parse_request(scope("channel=a,5&channel=b"), 128).resumed
    assert parse_request(scope("channel=a", ("last-event-id", "5")), 128).resumed


def test_percent_encoding_is_undone_and_what_is_unknown_passed_over() -> None:
    assert channels("channel=user%3Aann%40b.org&x=1&&y") == {"user:ann@b.org": "last"}
    assert query(scope("a+b=1+%2B")) == [("a b", "1 +")]  # as URLSearchParams writes it


def test_a_channel_asked_for_twice_is_one_unless_the_cursors_differ() -> None:
    assert channels("channel=a&channel=a") == {"a": "last"}
    with pytest.raises(BadRequest, match="twice"):
        channels("channel=a,1&channel=a,2")


def test_only_final_ends_a_stream() -> None:
    assert parse_request(scope("channel=a&until=final"), 128).until_final
    assert not parse_request(scope("channel=a"), 128).until_final
    with pytest.raises(BadRequest, match="until 'end'"):
        parse_request(scope("channel=a&until=end"), 128)


def test_the_number_of_channels_is_limited() -> None:
    with pytest.raises(BadRequest, match="3 channels: at most 2") as refused:
        parse_request(scope("channel=a&channel=b&channel=c"), 2)
    with pytest.raises(BadRequest, match="no channel"):
        parse_request(scope("until=final"), 2, required=True)

    assert refused.value.channel == "c"
    assert parse_request(scope("channel=a&channel=b"), 2, required=True).channels == {"a": "last", "b": "last"}
    assert parse_request(scope(), 2).channels == {}


def test_a_wrong_name_comes_with_the_refusal_so_that_a_client_can_go_on_with_the_others() -> None:
    with pytest.raises(BadRequest, match="channel 'no name'") as error:
        parse_request(scope("channel=a&channel=no%20name,5"), 128)

    assert error.value.problem()["channel"] == "no name"


def test_a_value_that_is_not_utf_8_is_not_repeated() -> None:
    with pytest.raises(BadRequest) as error:
        query(scope("token=secret%FF"))

    assert "secret" not in error.value.detail


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.5", "0x10", "١", "9" * 17, str(2**53 + 1)])
def test_an_invalid_cursor_is_named(text: str) -> None:
    with pytest.raises(BadRequest, match="cursor "):
        parse_since(text)


def test_headers_are_found_by_their_names() -> None:
    sent = scope("", ("cookie", "a=1"), ("cookie", "b=2"))

    assert header(sent, b"cookie") == "b=2"
    assert headers(sent, b"cookie") == ["a=1", "b=2"]
    assert header(sent, b"origin") is None


def test_how_long_a_poll_waits() -> None:
    assert wait_seconds(scope()) == 25
    assert wait_seconds(scope("wait=0")) == 0
    assert wait_seconds(scope("wait=2.5", ("prefer", "wait=9"))) == 2.5
    assert wait_seconds(scope("wait=600")) == 60
    assert wait_seconds(scope("", ("prefer", "respond-async, wait=10"))) == 10
    assert wait_seconds(scope("", ("prefer", 'respond-async ; x=y, wait = "10"'))) == 10
    assert wait_seconds(scope("", ("prefer", "wait=10"), ("prefer", "respond-async, wait=20"))) == 10
    assert wait_seconds(scope("", ("prefer", "wait=soon"))) == 25
    with pytest.raises(BadRequest, match="wait 'soon'"):
        wait_seconds(scope("wait=soon"))


def test_a_channel_that_is_not_allowed_is_named() -> None:
    grant = Grant.from_claims(check_claims({"sub": "ann", "exp": 2_000_000_000}))

    check_readable(grant, ["user:ann", "user:ann:inbox"])
    with pytest.raises(Forbidden, match="'user:bob'") as error:
        check_readable(grant, ["user:ann", "user:bob"])
    assert error.value.channel == "user:bob"
