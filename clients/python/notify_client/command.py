"""Command: checks the arguments of a publish, and encodes them for Redis.

The rules are those of docs/protocol.md. Redis checks them again, but here a mistake costs no round trip, and is found even while Redis
is away.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

Command = tuple[str | bytes, ...]
"""A Redis command, or a part of one: its words. None is a number: hiredis crashes if a signal handler raises while it writes one."""

CHANNEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")
PATTERN: Final = re.compile(rf"{CHANNEL.pattern}|({CHANNEL.pattern})?\*")
TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")  # as the gateway's GATEWAY_PREFIX
MAX_EVENT_BYTES: Final = 65_536
MAX_KEEP: Final = 10_000
MAX_TTL: Final = 30 * 86_400
MAX_TEXT: Final = 512

_encoder: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def show(value: object, limit: int = 80) -> str:
    """A value as text for an error: quoted, escaped, on one line, and not longer than ``limit``."""
    try:
        text = ascii(value)
    except Exception:  # noqa: BLE001 - whatever an object raises that cannot say what it is, such as a row whose session is over
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def _check_name(what: str, value: object, form: re.Pattern[str], rule: str) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{what} {show(value)}: {rule}")


def check_channel(channel: str) -> None:
    """Check the name of a channel.

    Raises:
        ValueError: if it is not allowed.
    """
    rule = "only letters, digits and _ . : @ - are allowed, at most 128, the first a letter or digit"
    _check_name("channel", channel, CHANNEL, rule)


def check_pattern(what: str, pattern: str) -> None:
    """Check one of the channels that a token allows: the name of a channel, or the beginning of one and then ``*``.

    Raises:
        ValueError: if it is neither, so that the gateway would refuse the token.
    """
    _check_name(what, pattern, PATTERN, "the name of a channel, or the beginning of one and then *, is expected")


def check_prefix(prefix: str) -> None:
    """Check a prefix.

    Raises:
        ValueError: if no gateway can have it, so that nobody would ever hear of what is published.
    """
    _check_name("prefix", prefix, PREFIX, "a letter, then letters, digits and _, at most 32, are expected")


def encode_event(type: str, data: Any, *, final: bool, limit: int) -> bytes:
    """An event as JSON.

    Args:
        type: of the event
        data: any JSON value
        final: whether it is the last event of its channel
        limit: the largest number of bytes allowed

    Raises:
        ValueError: if the type is not allowed, the data is not JSON, or the event is too long.
    """
    _check_name("type", type, TYPE, "only letters, digits and _ . - are allowed, at most 64, the first a letter or digit")
    event = {"type": type, "data": data, "final": True} if final else {"type": type, "data": data}
    try:
        encoded = _encoder.encode(event).encode()
    except UnicodeEncodeError as error:
        lone = show(error.object[error.start : error.end])
        raise ValueError(f"data {show(data)}: {lone} is half of a character (a lone surrogate); send whole text") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"data {show(data)}: it is not JSON: {error}; send null, booleans, numbers, text, lists and dicts") from None
    except RecursionError:
        raise ValueError("data: it is nested too deeply, 250 levels are allowed; send it flatter") from None
    if len(encoded) > limit:
        raise ValueError(f"data: the event has {len(encoded)} bytes of JSON, at most {limit} are allowed; send a link to the rest")
    return encoded


def encode_options(*, key: str | None, keep: int | None, ttl: int | None, collapse: str | None) -> Command:
    """The options as words of the command; those that are ``None`` are left out.

    Raises:
        ValueError: if one is out of range.
    """
    words: list[str | bytes] = []
    for name, number, most in (("KEEP", keep, MAX_KEEP), ("TTL", ttl, MAX_TTL)):
        if number is not None:
            words += (name, _check_number(name.lower(), number, most))
    for name, text in (("KEY", key), ("COLLAPSE", collapse)):
        if text is not None:
            words += (name, _encode_text(name.lower(), text))
    return tuple(words)


def _check_number(name: str, number: object, most: int) -> str:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
        raise ValueError(f"{name} {show(number)}: a whole number from 1 to {most} is expected")
    return str(int(number))


def _encode_text(name: str, text: object) -> bytes:
    try:
        encoded = text.encode() if isinstance(text, str) else b""
    except UnicodeEncodeError:
        encoded = b""
    if not 1 <= len(encoded) <= MAX_TEXT:
        raise ValueError(f"{name} {show(text)}: text of 1 to {MAX_TEXT} bytes is expected")
    return encoded
