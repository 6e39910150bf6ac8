"""Events: what publishers may send, what is refused and why, and the JSON that clients get."""

from __future__ import annotations

import json
import tracemalloc
from functools import partial

import pytest

from gateway.core.event import (
    MAX_CURSOR,
    MAX_TYPE,
    Event,
    Malformed,
    Published,
    channel_problem,
    parse_announcement,
    parse_cursor,
    parse_entry,
    parse_published,
    show,
)

DEEP = 20_000


def event(data: bytes = b"1", *, final: bool = False) -> Event:
    return parse_announcement("jobs:42", b'7 5\n{"type":"t","data":%b%b}' % (data, b',"final":true' if final else b""))


# Names and cursors


@pytest.mark.parametrize("name", ["a", "jobs:42", "user:ann@example.com", "9", "A_b.c-d", "x" * 128])
def test_a_valid_channel_name_is_accepted(name: str) -> None:
    assert channel_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "*", "[a-z]", "a b", ":a", "_a", "a\n", "a\r", "a\0", "a\u2028", "ä", "a/b", "a{b}", "jobs:*", "x" * 129, "\ud800"]
)
def test_an_invalid_channel_name_is_quoted_and_escaped(name: str) -> None:
    problem = channel_problem(name)

    assert problem is not None
    assert problem.startswith("channel '")
    assert problem.isascii()
    assert problem.isprintable()
    assert len(problem) < 200


@pytest.mark.parametrize("text", ["0", "1", "1795215462557031", "0000000000000007", str(MAX_CURSOR)])
def test_a_cursor_is_a_decimal_number(text: str) -> None:
    assert parse_cursor(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "last", "١", "1\n", str(MAX_CURSOR + 1), "9" * 1_000_000]
)
def test_an_invalid_cursor_is_named(text: str) -> None:
    with pytest.raises(Malformed, match="cursor '") as caught:
        parse_cursor(text)

    assert len(str(caught.value)) < 200


def test_outside_text_is_shown_on_one_short_line() -> None:
    assert show("a\r\nb\u2028") == r"'a\r\nb\u2028'"
    assert len(show("x" * 1000)) == 80
    assert len(show("x" * 1000, 20)) == 20


def test_an_outside_value_is_shown_as_it_was_sent_and_not_as_python_writes_it() -> None:
    assert [show(value) for value in (b"8\n\xff", None, True, False, 7, 0.5)] == [r"'8\n\xff'", "null", "true", "false", "7", "0.5"]


# What publishers write


def test_long_types_are_not_kept() -> None:
    tracemalloc.start()
    for i in range(100):
        with pytest.raises(Malformed, match="type"):
            parse_published(json.dumps({"type": f"{i}" + "x" * 60_000}).encode())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 1_000_000


@pytest.mark.parametrize(
    ("json", "type", "data", "final"),
    [
        (b'{"type":"a"}', "a", b"null", False),
        (b'{"type":"a","data":{"x": 1}}', "a", b'{"x": 1}', False),
        (b'{"type":"a","data":null,"final":false}', "a", b"null", False),
        (b'{"final":true,"type":"a"}', "a", b"null", True),
        (b' {"type" : "a" , "data" : [1,\n2] } ', "a", b"[1,\n2]", False),
        # An object without a text type is data, and so is one with other keys.
        (b'{"data":5}', "message", b'{"data":5}', False),
        (b'{"type":5,"data":5}', "message", b'{"type":5,"data":5}', False),
        (b'{"type":null}', "message", b'{"type":null}', False),
        (b'{"type":"a","id":"1"}', "message", b'{"type":"a","id":"1"}', False),
        (b'{"type":"a","channel":"c","data":1}', "message", b'{"type":"a","channel":"c","data":1}', False),
        (b'{"final":true}', "message", b'{"final":true}', False),
        (b"{}", "message", b"{}", False),
        (b"[]", "message", b"[]", False),
        (b"5", "message", b"5", False),
        (b'"text"', "message", b'"text"', False),
        (b"null", "message", b"null", False),
        (b'"\xc3\xa4\\ud83d\\ude00"', "message", b'"\xc3\xa4\\ud83d\\ude00"', False),
        # Of a doubled key the last one counts, as in most parsers.
        (b'{"type":"a","type":"b"}', "b", b"null", False),
        (b'{"type":5,"type":"b","data":1,"data":2}', "b", b"2", False),
        (b'{"type":"a","type":5}', "message", b'{"type":"a","type":5}', False),
        (b'{"type":5,"type":"a"}', "a", b"null", False),
        (b'{"\\u0074ype":"a"}', "a", b"null", False),
        (b'{"type":"\\u0061"}', "a", b"null", False),
    ],
)
def test_an_event_or_the_data_of_one(json: bytes, type: str, data: bytes, final: bool) -> None:
    published = parse_published(json)

    assert (published.type, bytes(published.data).strip(), published.final) == (type, data.strip(), final)


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"{'type':'a'}", "not JSON"),
        (b'{"type":"a"', "not JSON"),
        (b'{"type":"a"}}', "not JSON"),
        (b"1 2", "not JSON"),
        (b"NaN", "not JSON"),
        (b"-Infinity", "not JSON"),
        (b'{"type":"a","data":NaN}', "not JSON"),
        (b"01", "not JSON"),
        (b"1.", "not JSON"),
        (b'"\n"', "not JSON"),
        (b"\xef\xbb\xbf1", "not JSON"),
        (b"\xff", "not UTF-8: byte 0"),
        (b'"ab\xed\xa0\x80"', "not UTF-8: byte 3"),
        (b'"\xc0\x80"', "not UTF-8"),
        (b"[" * DEEP + b"]" * DEEP, "too deeply"),
        (b'{"type":"a","data":' + b"[" * DEEP + b"]" * DEEP + b"}", "too deeply"),
        (b'{"type":""}', "type ''"),
        (b'{"type":"a b"}', "type 'a b'"),
        (b'{"type":"a\\nb"}', r"type 'a\\nb'"),
        (b'{"type":"a\\n"}', r"type 'a\\n'"),
        (b'{"type":"-a"}', "type '-a'"),
        (b'{"type":"%b"}' % (b"x" * 65), "type 'xxx"),
        ('{"type":"ä"}'.encode(), r"type '\\xe4'"),
        (b'{"type":"a","final":null}', "final 'null'"),
        (b'{"type":"a","final":"yes"}', "final '\"yes\"'"),
        (b'{"type":"a","final":1}', "final '1'"),
        (b'{"type":"a","data":1,"final":1}', "final '1'"),
        (b'{"type":"a","final":true,"final":0}', "final '0'"),
    ],
)
def test_what_is_refused_says_why(json: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        parse_published(json)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("json", [b'"\\ud800"', b'{"type":"a","data":"\\ud800"}', b'{"type":"a","data":{"\\udfff":1}}'])
def test_a_lone_surrogate_is_carried_or_refused_but_never_breaks(json: bytes) -> None:
    try:
        published = parse_published(json)
    except Malformed:
        return

    assert Event("c", 1, 0, published).json.isascii()


def test_a_lone_surrogate_is_refused_in_a_type() -> None:
    with pytest.raises(Malformed):
        parse_published(b'{"type":"\\ud800"}')


def test_the_limit_counts_bytes_and_is_inclusive() -> None:
    json = b'"%b"' % (b"x" * 98)

    assert bytes(parse_published(json, limit=100).data) == json
    with pytest.raises(Malformed, match="has 100 bytes of JSON, at most 99"):
        parse_published(json, limit=99)


@pytest.mark.parametrize(
    "filling",
    [b"", b'"[{",' * 300, rb'"\"[",' * 300, rb'"\\","[",' * 300, b"{}," * 300],
    ids=["nothing", "brackets", "escaped quotes", "escaped backslashes", "objects side by side"],
)
def test_an_event_may_have_256_levels_whatever_stands_in_its_texts(filling: bytes) -> None:
    def nested(levels: int) -> bytes:
        return b'{"type":"a","data":[' + filling + b"[" * (levels - 2) + b"]" * (levels - 1) + b"}"

    assert parse_published(nested(256)).type == "a"
    for parse in (parse_published, partial(parse_announcement, "c")):
        with pytest.raises(Malformed, match="nested too deeply, 256 levels are allowed"):
            parse(nested(257))


# What comes from Redis


def test_an_announcement_has_its_id_and_the_one_before_it() -> None:
    event = parse_announcement("c", b'12 7\n{"type":"a"}')

    assert (event.channel, event.id, event.before, event.final) == ("c", 12, 7, False)


def test_ids_and_a_type_may_be_as_long_as_the_rules_allow() -> None:
    event = parse_announcement("c", b'%d %d\n{"type":"%b"}' % (10**16 - 1, 10**16 - 2, b"x" * MAX_TYPE))

    assert (event.id, event.before) == (10**16 - 1, 10**16 - 2)
    assert event.json.startswith(b'{"type":"%b",' % (b"x" * MAX_TYPE))


@pytest.mark.parametrize("payload", [b"5", b'{"type":"a"}', b" 5", b"5\n", b'{"a": 5\n}'])
def test_without_the_first_line_it_is_live_only(payload: bytes) -> None:
    event = parse_announcement("c", payload)

    assert (event.id, event.before) == (0, 0)
    assert b'"id"' not in event.json


@pytest.mark.parametrize(
    "payload",
    [
        *(b"12 7\n", b"12 7\nx", b"12 7 5\n1", b"12\n7\nx", b"12 7 \n1", b"-1 0\n1"),
        *(b"9" * 17 + b" 0\n1", b"12 " + b"9" * 5_000 + b"\n1"),  # Python reads no number of more than 4,300 digits
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_an_announcement_that_is_neither_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        parse_announcement("c", payload)


ID = 1_795_215_462_557_031


@pytest.mark.parametrize("label", [b"", b" progress"])
def test_an_entry_may_have_a_label(label: bytes) -> None:
    event = parse_entry("c", b'%d %d%b\n{"type":"a","final":true}' % (ID, ID - 5, label))

    assert (event.channel, event.id, event.before, event.final) == ("c", ID, ID - 5, True)


@pytest.mark.parametrize(
    ("before", "expected"),
    [(b"0", 0), (b"62557030", ID - 1), (b"5462557030", ID - 1), (b"1795215462557030", ID - 1), (b"1695215462557030", ID - 10**14 - 1)],
)
def test_the_id_before_lacks_the_digits_it_shares(before: bytes, expected: int) -> None:
    assert parse_entry("c", b"%d %b\n1" % (ID, before)).before == expected


HEAD = b"%d 0" % ID


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"junk",
        b"12 7 l\n1",
        HEAD,
        HEAD + b" l",
        HEAD + b"\nx",
        HEAD + b" l\n",
        b"x 7 l\n1",
        b"1%b\n1" % HEAD,
        HEAD + b"0" * 16 + b"\n1",
        b"\xff",
    ],
)
def test_a_malformed_log_entry_is_refused(entry: bytes) -> None:
    with pytest.raises(Malformed):
        parse_entry("c", entry)


# What clients get


def test_the_object_that_clients_get() -> None:
    assert (
        event(b'{"url": "/files/42"}', final=True).json
        == b'{"type":"t","data":{"url": "/files/42"},"final":true,"channel":"jobs:42","id":"7"}'
    )
    assert event().json == b'{"type":"t","data":1,"channel":"jobs:42","id":"7"}'


def test_channel_and_id_cannot_be_forged() -> None:
    forged = parse_announcement("jobs:42", b'7 0\n{"type":"t","data":1,"channel":"jobs:1","id":"9"}')

    assert json.loads(forged.json) == {
        "type": "message",
        "data": {"type": "t", "data": 1, "channel": "jobs:1", "id": "9"},
        "channel": "jobs:42",
        "id": "7",
    }


def test_data_goes_through_byte_for_byte() -> None:
    odd = b'{"b":1.0,"a":1e2,"a":"\\u00e4\\/","n":12345678901234567890123}'
    event = Event("c", 1, 0, Published("t", parse_published(odd).data))

    assert odd in event.json
