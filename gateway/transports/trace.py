"""Trace: the work that an event belongs to, as its publisher names it in ``traceparent`` (W3C Trace Context).

It goes into the log lines of the request and, where OpenTelemetry is installed, into a span. It does not travel with the event:
what clients receive is fixed. Who wants it in the browser puts it into ``data``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def parse_traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The header's value, empty if there is none or more than one, or one of another form (section 3.2.2)."""
    found = [value for name, value in headers if name == b"traceparent"]
    return found[0].decode() if len(found) == 1 and _TRACEPARENT.fullmatch(found[0]) else ""


@cache
def _opentelemetry() -> Any:
    # Imported when it is first asked for: it takes its time, and few have it.
    try:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError:
        return None
    return trace, TraceContextTextMapPropagator()


@contextmanager
def span(name: str, traceparent: str) -> Iterator[dict[str, int]]:
    """A span of a producer, a child of the publisher's; what is put into the dictionary becomes its attributes."""
    attributes: dict[str, int] = {}
    if (found := _opentelemetry()) is None:
        yield attributes
        return
    trace, propagator = found
    context = propagator.extract({"traceparent": traceparent} if traceparent else {})
    with trace.get_tracer("notify-gateway").start_as_current_span(name, context, kind=trace.SpanKind.PRODUCER) as current:
        yield attributes
        current.set_attributes(attributes)
