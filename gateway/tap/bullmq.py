"""BullMQ: what an entry of its stream of events means in our words. Decides only, no I/O.

For BullMQ 5 and 6. A job whose attempt failed and is tried again says ``delayed`` or ``waiting``; ``failed`` is the end, and so is
``removed`` if the job had not ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.event import show

OWNER: Final = "notify_owner"  # the field of a job's data that names its owner, as in the Python client's integrations

Entry = tuple[bytes, Mapping[bytes, bytes]]
"""An entry of the stream: its id and its fields."""


@dataclass(slots=True)
class Job:
    """What is known of a job besides its events.

    Attributes:
        task: its name; ``None`` if BullMQ has removed the job
        owner: who is told besides the followers of the job
        started: whether it has started since it was added
        added: the entry that told that it was added; ``None`` if that was not read
    """

    task: str | None
    owner: str | None
    started: bool
    added: bytes | None = None

    @classmethod
    def parse(cls, name: bytes | None, data: bytes | None, attempts: bytes | None) -> Job:
        """A job from the fields ``name``, ``data`` and ``ats`` (attempts started) of its hash; each ``None`` if it is not there."""
        value = _parse(data)
        owner = value.get(OWNER) if isinstance(value, dict) else None
        return cls(
            task=name.decode(errors="replace") if name else None,
            owner=str(owner) if isinstance(owner, str | int) else None,
            started=(attempts or b"0") != b"0",
        )


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event to be published.

    Attributes:
        id: of the stream's entry that it comes from
        job: the job's id
        type: of the event
        fields: of the event's data
    """

    id: bytes
    job: str
    type: str
    fields: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether the job is over."""
        return self.type in ("completed", "failed")


def translate(entry: Entry, job: Job, *, results: bool = False, messages: bool = False) -> JobEvent | None:
    """The event that an entry stands for; ``None`` if it stands for none. Notes in ``job`` whether it has started.

    Args:
        entry: of BullMQ's stream
        job: the job that it is about
        results: whether ``completed`` has what the job returned
        messages: whether ``failed`` has the error's text
    """
    id, fields = entry
    previous = fields.get(b"prev")

    def event(type: str, data: dict[str, Any] | None = None) -> JobEvent:
        return JobEvent(id, fields[b"jobId"].decode(errors="replace"), type, data or {})

    match fields.get(b"event"):
        case b"added":
            job.started = False
            return event("queued")
        case b"active":
            job.started = True
            return event("started")
        case b"progress":
            return event("progress", _progress(fields.get(b"data")))
        case b"waiting" if previous in (b"completed", b"failed"):
            job.started = False
            return event("queued")  # somebody has queued the job again after its end
        case b"waiting" if previous == b"active":
            return event("retrying")
        case b"delayed" if job.started:
            return event("retrying")
        case b"completed":
            return event("completed", {"result": _parse(fields.get(b"returnvalue"))} if results else {})
        case b"failed":
            text = {"message": fields.get(b"failedReason", b"").decode(errors="replace")} if messages else {}
            return event("failed", {"error": "Failed"} | text)
        case b"removed" if previous not in (None, b"completed", b"failed", b"unknown"):
            return event("failed", {"error": "Removed"})
    return None


def collapse(events: Sequence[JobEvent]) -> Iterator[JobEvent]:
    """All events but the progress that another event of the same job follows."""
    newest = {event.job: event for event in events}
    return (event for event in events if event.type != "progress" or newest[event.job] is event)


def _parse(data: bytes | None) -> Any:
    """A JSON value; as text if it is not JSON."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data or b"null")
        # JavaScript writes half of an emoji, with which a text that was cut may end, as an escape. UTF-8, and so an event, has none.
        return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return show(data)


def _progress(data: bytes | None) -> dict[str, Any]:
    match _parse(data):
        case dict() as fields:
            return fields
        case int() | float() as percent:
            return {"percent": percent}
        case value:
            return {"value": value}
