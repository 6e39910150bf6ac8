"""Log lines: text for people, JSON for machines; one line each, whatever is in them."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

_OTHERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access")


def _escape(text: str) -> str:
    # A stranger's line break would forge a line of its own.
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """``2026-11-21 10:00:00 WARNING gateway.listener: connection to Redis lost``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = _escape(record.message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


class Polite(logging.Filter):
    """Leaves out what uvicorn and websockets say of each request: they quote query strings, and tokens may be in them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not record.name.startswith(("uvicorn", "websockets"))


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
        "filters": {"polite": {"()": "gateway.server.logs.Polite"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["polite"]}},
        "root": {"handlers": ["stderr"], "level": others},
        # With propagate, because uvicorn's own configuration, had it come first, would keep these to itself.
        "loggers": {"gateway": {"level": level.upper()}} | {name: {"level": others, "propagate": True} for name in _OTHERS},
    }
