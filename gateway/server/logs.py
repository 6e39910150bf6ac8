"""Log lines: text for people, or JSON for machines. Each stays on one line whatever it quotes, and is not repeated again and again.

What a line is about (connection, subject, address) comes from ``extra=about(...)`` (transports/log_lines.py). It is shown after the message
in text, and in fields of its own in JSON.
"""

from __future__ import annotations

import _thread
import logging
import re
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

SAME_LINES: Final = 5  # of one kind that are logged within ``SAME_SECONDS``
SAME_SECONDS: Final = 10.0
MAX_KINDS: Final = 1_000

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

_PLACEHOLDER: Final = re.compile(r"%[\d.]*[a-z]")

_CANCELLED: Final = "Cancel %s running task(s)"

_OTHERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access")


def _escape(text: str) -> str:
    # A line break in a client's text would forge a log line.
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
        # Indented, so that no line of an exception's text can be mistaken for a log line.
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


class Discreet(logging.Filter):
    """Drops what uvicorn and websockets log of each request: they quote query strings, which may hold tokens.

    It also drops uvicorn's error about a shutdown in which it cancels no task: a slow client has not taken its goodbye, and that is all.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "uvicorn.error" and record.args == (0,) and str(record.msg).startswith(_CANCELLED):
            return False
        return record.levelno >= logging.WARNING or not record.name.startswith(("uvicorn", "websockets"))


class Repeats(logging.Filter):
    """Lets only a few lines of one kind through within some seconds, and then logs how many more there were.

    Lines are of one kind if they have the same logger and format string, whatever they name, and refusals if they also have the same
    status.
    """

    def __init__(self, lines: int = SAME_LINES, seconds: float = SAME_SECONDS) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._lock = threading.RLock()  # reentrant, because the garbage collector may run and log while it is held
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}  # kind -> when it was first counted, and how many lines since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.CRITICAL or getattr(record, "is_sum", False):
            return True
        kind = (record.name, str(record.msg), getattr(record, "kind", ""))
        now = time.monotonic()
        with self._lock:
            if len(self._seen) > MAX_KINDS:
                self._seen.clear()  # some logger formats its lines itself, so that each is of another kind
            begin, count = self._seen.get(kind, (now, 0))
            if now - begin >= self._seconds:
                begin, count = now, 0
            self._seen[kind] = (begin, count + 1)
            # At the interpreter's end no thread is started: it would never run, and yet be waited for.
            if count == self._lines and not sys.is_finalizing():
                with suppress(RuntimeError):  # since Python 3.12 threads cannot be started already a little before that
                    # Not with threading.Timer, which waits until the new thread runs: if that finds no memory, the event loop stands still.
                    _thread.start_new_thread(self._tell, (begin + self._seconds - now, kind, record.levelno))
        return count < self._lines

    def _tell(self, seconds: float, kind: tuple[str, str, str], level: int) -> None:
        time.sleep(seconds)
        with self._lock:
            _, count = self._seen.pop(kind, (0.0, 0))
        name, form, which = kind
        if count > self._lines:
            extra = {"is_sum": True}
            line = _PLACEHOLDER.sub("...", form) + (f" ({which})" if which else "")
            logging.getLogger(name).log(
                level, "%d more lines like this one in %.0f s: %s", count - self._lines, self._seconds, line, extra=extra
            )


def log_config(level: str, kind: str) -> dict[str, Any]:
    """The configuration for ``logging.config.dictConfig``.

    Args:
        level: as GATEWAY_LOG_LEVEL
        kind: as GATEWAY_LOG_FORMAT
    """
    # Other libraries log only warnings and errors, because below that uvicorn, websockets and httpx quote whole addresses. This also
    # saves each handshake from making lines that the filter would drop.
    others = "ERROR" if level == "error" else "WARNING"
    formatter = f"gateway.server.logs.{'JsonFormatter' if kind == 'json' else 'TextFormatter'}"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "filters": {"discreet": {"()": "gateway.server.logs.Discreet"}, "repeats": {"()": "gateway.server.logs.Repeats"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["discreet", "repeats"]}},
        "root": {"handlers": ["stderr"], "level": others},
        # They must propagate: uvicorn's own configuration, if it was applied before, has turned that off.
        "loggers": {"gateway": {"level": level.upper()}} | {name: {"level": others, "propagate": True} for name in _OTHERS},
    }
