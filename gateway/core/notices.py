"""Notices: the JSON of what a client is told beside events (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from gateway.core.cursor import Cursor

Ref = str | int | float | bool | None
"""What a client puts into a command, to know the answer by."""


def notice(name: str, fields: Mapping[str, object]) -> bytes:
    """Any of them."""
    return msgspec.json.encode({"op": name, **fields})


def ready(ref: Ref, cursors: Collection[Cursor]) -> bytes:
    """All of these channels were read. Put together here, because every client gets one; nothing in a channel's name is to be escaped."""
    places = ",".join([f'"{cursor.channel.name}":"{cursor.position}"' for cursor in cursors])
    told = "" if ref is None else f'"ref":{msgspec.json.encode(ref).decode()},'
    return f'{{"op":"ready",{told}"channels":{{{places}}}}}'.encode()
