from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.server.frames import FRAMES_AT_ONCE, FRAMES_PER_SECOND, FrameCounter, Violation, is_pong
from tests.support.wire import PING, PONG, frame

kinds = st.tuples(st.sampled_from([0, 1, 125, 126, 300]), st.booleans(), st.booleans())


@given(st.lists(kinds, max_size=12), st.integers(1, 700))
def test_frames_are_counted_however_their_bytes_are_split(sent: list[tuple[int, bool, bool]], step: int) -> None:
    stream = b"".join(frame(b" " * size, fin=fin, masked=masked) for size, fin, masked in sent)
    counter = FrameCounter(0)

    assert feed(counter, (stream[start : start + step] for start in range(0, len(stream), step))) == 0
    assert counter._rate._left == FRAMES_AT_ONCE - len(sent)


@pytest.mark.parametrize("step", [1_000, 65_536, 300_000])
def test_long_frames_are_counted_too(step: int) -> None:
    stream = (frame(b" " * 65_535) + frame(b" " * 65_536)) * 2
    counter = FrameCounter(0)

    assert feed(counter, (stream[start : start + step] for start in range(0, len(stream), step))) == 0
    assert counter._rate._left == FRAMES_AT_ONCE - 4


def feed(counter: FrameCounter, parts: Iterable[bytes]) -> int:
    """Feed bytes; the close code of an error, 0 for none."""
    try:
        for part in parts:
            counter.feed(part, 0)
    except Violation as violation:
        return violation.code
    return 0


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1_000])
@pytest.mark.parametrize(("size", "form"), [(0, 2), (125, 2), (0, 8), (300, 8), (65_535, 8)])
def test_a_length_that_is_not_in_its_shortest_form_is_a_protocol_error(size: int, form: int, step: int) -> None:
    data, counter = frame(b"x" * 10) + frame(b" " * size, form=form), FrameCounter(0)

    assert feed(counter, (data[start : start + step] for start in range(0, len(data), step))) == 1002


def test_the_number_of_frames_at_once_is_limited() -> None:
    counter = FrameCounter(0)
    counter.feed(frame(b"x", PING) * FRAMES_AT_ONCE, 0)

    with pytest.raises(Violation) as caught:
        counter.feed(frame(b"", PING), 0)

    assert caught.value.code == 1008


def test_the_allowance_of_frames_refills_up_to_its_limit() -> None:
    counter = FrameCounter(0)
    counter.feed(frame() * FRAMES_AT_ONCE, 0)
    counter.feed(frame() * int(FRAMES_PER_SECOND), 1)

    counter.feed(frame() * FRAMES_AT_ONCE, 1_000_000)
    with pytest.raises(Violation):
        counter.feed(frame(), 1_000_000)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_accepted_or_refused_and_only_part_of_a_header_is_kept(parts: list[bytes]) -> None:
    counter = FrameCounter(0)

    assert feed(counter, parts) in (0, 1002, 1008)
    assert len(counter._header) < 10


def test_only_a_whole_pong_is_taken_for_one() -> None:
    pong = frame(b"ok", PONG)
    others = [frame(b"ok"), frame(b"ok", PING), frame(b"ok", PONG, fin=False), frame(b"ok", PONG, masked=False)]
    others += [pong[:-1], pong[:2], b"", pong + pong, pong + frame(b"ok")]

    assert is_pong(pong)
    assert is_pong(frame(b"", PONG))
    assert is_pong(frame(b" " * 125, PONG))
    assert not [data for data in others if is_pong(data)]
