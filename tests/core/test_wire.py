"""Wire formats: the exact bytes of events and notices on each kind of connection."""

from __future__ import annotations

import pytest

from gateway.core.event import Event, parse_announcement
from gateway.core.wire import BLOCK, CHUNK, ELEMENT, FRAME, TEXT, Wire, http_chunk, text_frame


def event(data: bytes = b"1") -> Event:
    return parse_announcement("jobs:42", b'7 5\n{"type":"t","data":%b}' % data)


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_says_its_length_in_the_fewest_bytes(size: int, head: bytes) -> None:
    payload = b"x" * size

    assert text_frame(payload) == head + payload


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
def test_an_event_of_just_that_size_in_a_frame(size: int) -> None:
    rest = len(event(b'""').json)
    sized = event(b'"%b"' % (b"x" * (size - rest)))

    assert len(sized.json) == size
    assert sized.encode(FRAME) == text_frame(sized.json)


def test_a_block_has_the_id_and_one_line_of_data() -> None:
    assert event().encode(BLOCK) == b'id: 7\ndata: {"type":"t","data":1,"channel":"jobs:42","id":"7"}\n\n'


def test_line_breaks_between_tokens_do_not_end_the_field() -> None:
    assert event(b"[1,\r\n2,\r3,\n4]").encode(BLOCK) == (b'id: 7\ndata: {"type":"t","data":[1,  2, 3, 4],"channel":"jobs:42","id":"7"}\n\n')


def test_a_live_only_event_leaves_the_clients_cursor_alone() -> None:
    live = parse_announcement("c", b"5")

    assert live.encode(BLOCK) == b'data: {"type":"message","data":5,"channel":"c"}\n\n'


def test_a_chunk_is_the_block_with_its_length() -> None:
    block = event().encode(BLOCK)

    assert event().encode(CHUNK) == b"%x\r\n%b\r\n" % (len(block), block)
    assert http_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize("wire", [TEXT, ELEMENT])
def test_text_and_an_element_of_a_polls_answer_are_the_json_itself(wire: Wire) -> None:
    one = event()

    assert one.encode(wire) is one.json


@pytest.mark.parametrize("wire", [TEXT, FRAME, BLOCK, CHUNK, ELEMENT])
def test_an_encoding_is_made_once(wire: Wire) -> None:
    one = event()

    assert one.encode(wire) is one.encode(wire)


def test_a_notice_on_each_wire() -> None:
    json = b'{"op":"gap","channel":"c"}'

    assert TEXT.notice("gap", json, 0) == ELEMENT.notice("gap", json, 0) == json
    assert FRAME.notice("gap", json, 0) == b"\x81\x1a" + json
    assert BLOCK.notice("gap", json, 0) == b"event: gap\ndata: " + json + b"\n\n"
    assert CHUNK.notice("gap", json, 0) == http_chunk(b"event: gap\ndata: " + json + b"\n\n")


def test_messages_are_joined_only_where_their_bytes_show_where_each_ends() -> None:
    parts = [b"ab", b"c"]

    assert {wire.name: wire.join(parts) for wire in (TEXT, FRAME, BLOCK, CHUNK, ELEMENT)} == {
        "text": parts,
        "frame": [b"abc"],
        "block": [b"abc"],
        "chunk": [b"abc"],
        "element": parts,
    }
