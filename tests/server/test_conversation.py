"""The protocol of a WebSocket without I/O: bytes in, messages and frames out."""

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


def test_messages_are_received_whole_and_in_order(conversation: Conversation) -> None:
    fragments = [frame(b"a", fin=False), frame(b"b", 0, fin=False), frame(b"", PONG), frame(b"c", 0)]

    assert heard(conversation, *fragments, frame(b"\xff", BINARY), frame("é".encode(), TEXT)) == [
        Received(Opcode.TEXT, "abc"),
        Received(Opcode.BINARY, b"\xff"),
        Received(Opcode.TEXT, "é"),
    ]


def test_a_frame_that_arrives_in_pieces_is_received_with_the_last(conversation: Conversation) -> None:
    data = frame(b"hello")

    found = [list(conversation.receive_data(data[i : i + 1], 0.0)) for i in range(len(data))]
    assert found == [[]] * (len(data) - 1) + [[Received(Opcode.TEXT, "hello")]]


def test_a_fragment_that_looks_like_a_pong_is_part_of_its_message(conversation: Conversation) -> None:
    piece = frame(b"x", PONG)
    whole = b"head" + bytes(byte ^ MASK[i & 3] for i, byte in enumerate(piece))
    before = frame(whole, BINARY).removesuffix(piece)

    assert heard(conversation, before) == []
    assert heard(conversation, piece) == [Received(Opcode.BINARY, whole)]


def test_a_ping_and_a_close_are_answered(conversation: Conversation) -> None:
    assert heard(conversation, frame(b"x", PING)) == [Received(Opcode.PING, b"", b"\x8a\x01x")]
    assert heard(conversation, frame(b"\x03\xe8bye", CLOSE)) == [Received(Opcode.CLOSE, "bye", b"\x88\x05\x03\xe8bye", 1000)]


def test_no_parser_is_made_for_a_client_that_only_answers_pings(conversation: Conversation) -> None:
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
def test_a_protocol_violation_is_answered_with_its_close_code(conversation: Conversation, data: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        heard(conversation, data)
    goodbye = conversation.fail(caught.value)

    assert caught.value.code == code
    assert (goodbye[0], int.from_bytes(goodbye[2:4], "big")) == (0x88, code)


def test_messages_before_a_violation_are_received(conversation: Conversation) -> None:
    saying = conversation.receive_data(frame(b"good") + frame(b"\xff"), 0.0)

    assert next(saying) == Received(Opcode.TEXT, "good")
    with pytest.raises(Violation):
        next(saying)


def test_messages_are_sent_in_frames_and_nothing_after_the_close(conversation: Conversation) -> None:
    assert conversation.text("é") == b"\x81\x02\xc3\xa9"
    assert conversation.binary(b"\x00") == b"\x82\x01\x00"
    assert conversation.close(1000, "") == GOODBYE
    with pytest.raises(InvalidState):
        conversation.text("more")


def test_a_violation_after_the_close_is_not_answered(conversation: Conversation) -> None:
    conversation.close(1000, "")

    assert conversation.fail(Violation(1008, "too many")) == b""
