"""Log lines: text for people, JSON for machines; one line each, whatever is in them, and not the same one again and again.

Whom a line is about stands behind its message, or in fields of its own: ``extra=about(...)`` of ``transports.lines`` brings it.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

SAME_LINES: Final = 5  # of one kind
SAME_SECONDS: Final = 10.0
MAX_KINDS: Final = 1_000

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

_BLANK: Final = re.compile(r"%[\d.]*[a-z]")  # of a form

_OTHERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access")


def _escape(text: str) -> str:
    # A stranger's line break would forge a line of its own.
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _about(record: logging.LogRecord) -> dict[str, str]:
    about: dict[str, str] = getattr(record, "about", {})
    return about


class TextFormatter(logging.Formatter):
    """``2026-11-21 10:00:00 INFO    gateway.connections: ended with 4401: the token has expired (connection 7-41, subject ann)``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        about = ", ".join(f"{name} {value}" for name, value in _about(record).items())
        record.message = _escape(f"{record.message} ({about})" if about else record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        # Indented, so that no line of an exception's text passes for one of ours.
        return "\n".join(f"  {_escape(line)}" for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= _about(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


class Polite(logging.Filter):
    """Leaves out what uvicorn and websockets say of each request: they quote query strings, and tokens may be in them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not record.name.startswith(("uvicorn", "websockets"))


class Repeats(logging.Filter):
    """Lets a few lines of one kind through in a while, and then says how many more there were.

    Of one kind are lines of one logger and one form, whatever they name; refusals by their status.
    """

    def __init__(self, lines: int = SAME_LINES, seconds: float = SAME_SECONDS) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._lock = threading.RLock()  # the garbage collector may log, in the midst of this
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}  # -> begin of the while, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.CRITICAL or getattr(record, "is_sum", False):
            return True
        kind = (record.name, str(record.msg), getattr(record, "kind", ""))
        now = time.monotonic()
        with self._lock:
            if len(self._seen) > MAX_KINDS:
                self._seen.clear()  # somebody logs without a form
            begin, count = self._seen.get(kind, (now, 0))
            if now - begin >= self._seconds:
                begin, count = now, 0
            self._seen[kind] = (begin, count + 1)
            if count == self._lines and not sys.is_finalizing():  # a thread that is started then never runs, and would be waited for
                timer = threading.Timer(begin + self._seconds - now, self._tell, (kind, record.levelno))
                timer.daemon = True
                with suppress(RuntimeError):  # a little sooner, since Python 3.12
                    timer.start()
        return count < self._lines

    def _tell(self, kind: tuple[str, str, str], level: int) -> None:
        with self._lock:
            _, count = self._seen.pop(kind, (0.0, 0))
        name, form, which = kind
        if count > self._lines:
            extra = {"is_sum": True}
            line = _BLANK.sub("...", form) + (f" ({which})" if which else "")
            logging.getLogger(name).log(
                level, "%d more lines like this one in %.0f s: %s", count - self._lines, self._seconds, line, extra=extra
            )


def log_config(level: str, kind: str) -> dict[str, Any]:
    """What ``logging.config.dictConfig`` takes."""
    # Other libraries are heard from warnings on: at lower levels uvicorn, websockets and httpx quote whole addresses. The level
    # also spares each handshake the making of lines that the filter would throw away.
    others = "ERROR" if level == "error" else "WARNING"
    formatter = f"gateway.server.logs.{'JsonFormatter' if kind == 'json' else 'TextFormatter'}"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "filters": {"polite": {"()": "gateway.server.logs.Polite"}, "repeats": {"()": "gateway.server.logs.Repeats"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["polite", "repeats"]}},
        "root": {"handlers": ["stderr"], "level": others},
        # With propagate, because uvicorn's own configuration, had it come first, would keep these to itself.
        "loggers": {"gateway": {"level": level.upper()}} | {name: {"level": others, "propagate": True} for name in _OTHERS},
    }
