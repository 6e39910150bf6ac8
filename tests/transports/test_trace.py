"""The traceparent header: which values are accepted, where they are logged, and the span of a publish."""

from __future__ import annotations

import errno
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext

from gateway.transports.trace import _opentelemetry, parse_traceparent, span

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"00",
        TRACE.upper().encode(),
        TRACE.encode() + b"\n",
        b"ff" + TRACE[2:].encode(),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
    ],
)
def test_a_malformed_trace_is_ignored(wrong: bytes) -> None:
    assert parse_traceparent([(b"traceparent", wrong)]) == ""


def test_two_trace_headers_are_ignored() -> None:
    header = (b"traceparent", TRACE.encode())

    assert parse_traceparent([(b"host", b"a"), header]) == TRACE
    assert parse_traceparent([header, header]) == ""


class Recorder(trace.TracerProvider, trace.Tracer):
    """Stands for OpenTelemetry's SDK: keeps the spans that were begun."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, SpanContext, Recorded]] = []
        self.kinds: list[trace.SpanKind] = []

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(self, name: str, context: Any = None, *_: Any, **__: Any) -> Span:
        recorded = Recorded(trace.get_current_span(context).get_span_context())
        self.begun.append((name, trace.get_current_span(context).get_span_context(), recorded))
        return recorded

    def start_as_current_span(self, name: str, context: Any = None, *_: Any, **options: Any) -> Any:
        self.kinds.append(options["kind"])
        return trace.use_span(self.start_span(name, context))


class Recorded(NonRecordingSpan):
    def __init__(self, context: SpanContext) -> None:
        super().__init__(context)
        self.attributes: dict[str, Any] = {}

    def set_attributes(self, attributes: Any) -> None:
        self.attributes |= attributes


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(trace, "get_tracer", recorder.get_tracer)
    return recorder


def test_a_span_is_a_child_of_the_publishers(recorder: Recorder) -> None:
    with span("publish", TRACE) as attributes:
        attributes["notify.events"] = 2

    ((name, parent, recorded),) = recorder.begun
    assert name == "publish"
    assert f"{parent.trace_id:032x}-{parent.span_id:016x}" == TRACE[3:52]
    assert recorded.attributes == {"notify.events": 2}
    assert recorder.kinds == [trace.SpanKind.PRODUCER]


def test_without_a_trace_it_begins_one(recorder: Recorder) -> None:
    with span("publish", ""):
        pass

    assert not recorder.begun[0][1].is_valid


def test_without_opentelemetry_a_publish_has_no_span(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    _opentelemetry.cache_clear()
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "opentelemetry", None)
        with span("publish", TRACE) as attributes:
            attributes["notify.events"] = 2
    _opentelemetry.cache_clear()

    assert recorder.begun == []


def test_while_no_file_can_be_opened_a_publish_has_no_span(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    _opentelemetry.cache_clear()
    with monkeypatch.context() as failing:
        failing.setattr("builtins.__import__", fail)
        with span("publish", ""):
            pass

    assert recorder.begun == []
    with span("publish", ""):
        pass
    assert len(recorder.begun) == 1
