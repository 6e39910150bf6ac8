"""Bytes in, what was said out."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidState
from websockets.frames import Opcode

from gateway.server.conversation import Conversation, Received
from gateway.server.frames import Violation
from tests.support.wire import BINARY, CLOSE, MASK, PING, PONG, TEXT, frame

GOODBYE = b"\x88\x02\x03\xe8"  # 1000


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(100, 0.0)


def heard(conversation: Conversation, *frames: bytes) -> list[Received]:
    return list(conversation.receive_data(b"".join(frames), 0.0))


def test_messages_are_heard_whole_and_in_their_order(conversation: Conversation) -> None:
    fragments = [frame(b"a", fin=False), frame(b"b", 0, fin=False), frame(b"", PONG), frame(b"c", 0)]

    assert heard(conversation, *fragments, frame(b"\xff", BINARY), frame("é".encode(), TEXT)) == [
        Received(Opcode.TEXT, "abc"),
        Received(Opcode.BINARY, b"\xff"),
        Received(Opcode.TEXT, "é"),
    ]


def test_a_frame_that_comes_in_pieces_is_heard_with_the_last(conversation: Conversation) -> None:
    data = frame(b"hello")

    found = [list(conversation.receive_data(data[i : i + 1], 0.0)) for i in range(len(data))]
    assert found == [[]] * (len(data) - 1) + [[Received(Opcode.TEXT, "hello")]]


def test_a_piece_of_a_message_that_looks_like_a_pong_is_a_part_of_it(conversation: Conversation) -> None:
    piece = frame(b"x", PONG)
    whole = b"head" + bytes(byte ^ MASK[i & 3] for i, byte in enumerate(piece))
    before = frame(whole, BINARY).removesuffix(piece)

    assert heard(conversation, before) == []
    assert heard(conversation, piece) == [Received(Opcode.BINARY, whole)]


def test_a_ping_and_a_close_have_their_answers(conversation: Conversation) -> None:
    assert heard(conversation, frame(b"x", PING)) == [Received(Opcode.PING, b"", b"\x8a\x01x")]
    assert heard(conversation, frame(b"\x03\xe8bye", CLOSE)) == [Received(Opcode.CLOSE, "bye", b"\x88\x05\x03\xe8bye", 1000)]


def test_nothing_is_made_for_who_only_answers_pings(conversation: Conversation) -> None:
    assert heard(conversation, frame(b"x", PONG)) == []
    assert conversation._parser is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"\xff"), 1007),
        (frame(b"x" * 101), 1009),
        (frame(b"x", masked=False), 1002),
        (frame(b"x", reserved=4), 1002),
        (frame(b"x", form=2), 1002),
        (frame(b"", PING) * 601, 1008),
    ],
    ids=["no UTF-8", "too big", "not masked", "reserved bits", "long form", "too many"],
)
def test_who_breaks_the_rules_is_told_why_it_must_go(conversation: Conversation, data: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        heard(conversation, data)
    goodbye = conversation.fail(caught.value)

    assert caught.value.code == code
    assert (goodbye[0], int.from_bytes(goodbye[2:4], "big")) == (0x88, code)


def test_what_came_before_a_violation_is_heard(conversation: Conversation) -> None:
    saying = conversation.receive_data(frame(b"good") + frame(b"\xff"), 0.0)

    assert next(saying) == Received(Opcode.TEXT, "good")
    with pytest.raises(Violation):
        next(saying)


def test_what_is_said_to_the_client_is_in_frames_and_nothing_after_the_last(conversation: Conversation) -> None:
    assert conversation.text("é") == b"\x81\x02\xc3\xa9"
    assert conversation.binary(b"\x00") == b"\x82\x01\x00"
    assert conversation.close(1000, "") == GOODBYE
    with pytest.raises(InvalidState):
        conversation.text("more")


def test_who_breaks_the_rules_after_the_end_is_told_nothing_more(conversation: Conversation) -> None:
    conversation.close(1000, "")

    assert conversation.fail(Violation(1008, "too many")) == b""
