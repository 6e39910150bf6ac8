"""Fuzz the parsers of outside bytes, guided by coverage. Not part of the test suite; it runs for as long as you choose.

    uv run --with atheris python tests/fuzz/fuzz_bytes.py heads -max_total_time=60
    uv run --with atheris python tests/fuzz/fuzz_bytes.py frames -max_total_time=60
    uv run --with atheris python tests/fuzz/fuzz_bytes.py events -max_total_time=60

Finds an exception that is not one of ours, bytes kept beyond the bounds, or time beyond -timeout.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["gateway"]):
    from gateway.core.event import Malformed, parse_announcement, parse_entry
    from gateway.errors import GatewayError
    from gateway.server.frames import FrameCounter, Violation
    from gateway.server.heads import check_head
    from gateway.server.responses import problem_response
    from gateway.transports.request import parse_request


NAMES = [b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding", b"origin", b"last-event-id"]
NAMES += [b"sec-websocket-key", b"sec-websocket-version"]


def heads(data: bytes) -> None:
    """A head as the parser hands it over. The parser is written in C, so coverage cannot guide the fuzzing there."""
    given = atheris.FuzzedDataProvider(data)
    method, version = given.PickValueInList([b"GET", b"POST"]), given.PickValueInList(["1.1", "1.0", "2.0"])
    uri = given.ConsumeBytes(given.ConsumeIntInRange(0, 200))
    headers = []
    while given.remaining_bytes():
        headers.append((given.PickValueInList(NAMES), given.ConsumeBytes(given.ConsumeIntInRange(0, 40))))
    try:
        check_head(method, version, uri, headers)
    except GatewayError as error:
        assert problem_response(error).startswith(b"HTTP/1.1 4")  # noqa: PT017 - no test
    with suppress(GatewayError):
        parse_request({"query_string": uri.partition(b"?")[2], "headers": headers}, 128)


def frames(data: bytes) -> None:
    whole, pieces = FrameCounter(0), FrameCounter(0)
    codes = []
    for counter, parts in ((whole, [data]), (pieces, [data[i : i + 1] for i in range(len(data))])):
        try:
            for part in parts:
                counter.feed(part, 0)
        except Violation as violation:
            codes.append(violation.code)
        else:
            codes.append(0)
    assert codes[0] == codes[1]
    assert len(whole._header) < 14


def events(data: bytes) -> None:
    for read in (parse_announcement, parse_entry):
        with suppress(Malformed):
            read("a", data)


if __name__ == "__main__":
    target = {"heads": heads, "frames": frames, "events": events}[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
