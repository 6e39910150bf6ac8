"""Notices: the JSON of the messages to a client that are not events (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from gateway.core.cursor import Cursor

Ref = str | int | float | bool | None
"""A value that a client puts into a command, and that comes back in the answer to it."""


def notice(name: str, fields: Mapping[str, object]) -> bytes:
    """A notice with this ``op`` and these fields."""
    return msgspec.json.encode({"op": name, **fields})


def ready(ref: Ref, cursors: Collection[Cursor]) -> bytes:
    """The notice that all of these channels have been read, with the client's cursor on each."""
    # Every client gets one, so it is formatted here rather than encoded; no character of a channel's name needs escaping.
    positions = ",".join([f'"{cursor.channel.name}":"{cursor.position}"' for cursor in cursors])
    reference = "" if ref is None else f'"ref":{msgspec.json.encode(ref).decode()},'
    return f'{{"op":"ready",{reference}"channels":{{{positions}}}}}'.encode()
