"""Trace: the trace that a publish request belongs to, given by its ``traceparent`` header (W3C Trace Context).

It is written to the log lines of the request and, if OpenTelemetry is installed, makes a span. It is not passed on to clients, because
the form of an event is fixed; a publisher that wants it in the browser can put it into ``data``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def parse_traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The header's value; empty if there is not exactly one, or if it is malformed (section 3.2.2)."""
    found = [value for name, value in headers if name == b"traceparent"]
    return found[0].decode() if len(found) == 1 and _TRACEPARENT.fullmatch(found[0]) else ""


@cache
def _opentelemetry() -> Any:
    # Imported on first use, because that takes time and few installations have it.
    try:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError:
        return None
    return trace, TraceContextTextMapPropagator()


@contextmanager
def span(name: str, traceparent: str) -> Iterator[dict[str, int]]:
    """A producer span for the work done while this is entered.

    Args:
        name: of the span
        traceparent: of the parent span; empty for none

    Yields:
        a dictionary, whose entries become the span's attributes
    """
    attributes: dict[str, int] = {}
    try:
        found = _opentelemetry()
    except OSError:  # no file can be opened at this moment; the next request tries again
        found = None
    if found is None:
        yield attributes
        return
    trace, propagator = found
    context = propagator.extract({"traceparent": traceparent} if traceparent else {})
    with trace.get_tracer("notify-gateway").start_as_current_span(name, context, kind=trace.SpanKind.PRODUCER) as current:
        yield attributes
        current.set_attributes(attributes)
