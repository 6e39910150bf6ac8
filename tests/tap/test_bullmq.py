"""How the entries of BullMQ's stream become events."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.event import show
from gateway.tap.bullmq import Entry, Job, JobEvent, collapse, translate


def entry(event: str, **fields: str) -> Entry:
    """An entry of the stream, about job 1."""
    return b"1-0", {name.encode(): value.encode() for name, value in ({"event": event, "jobId": "1"} | fields).items()}


@pytest.mark.parametrize(
    ("event", "fields", "started", "told"),
    [
        ("waiting", {}, False, None),
        ("waiting", {"prev": "delayed"}, False, None),
        ("waiting", {"prev": "active"}, True, ("retrying", {})),  # an attempt failed, or the job stalled
        ("waiting", {"prev": "failed"}, True, ("queued", {})),
        ("waiting", {"prev": "completed"}, True, ("queued", {})),
        ("stalled", {}, True, None),
        ("delayed", {"delay": "1"}, False, None),
        ("delayed", {"delay": "1"}, True, ("retrying", {})),
        ("progress", {"data": "40"}, True, ("progress", {"percent": 40})),
        ("progress", {"data": '{"page":3}'}, True, ("progress", {"page": 3})),
        ("progress", {"data": '"half"'}, True, ("progress", {"value": "half"})),
        ("progress", {"data": "{"}, True, ("progress", {"value": "'{'"})),
        ("progress", {"data": "[" * 100_000}, True, ("progress", {"value": show("[" * 100_000)})),
        ("completed", {"returnvalue": "[1]", "prev": "active"}, True, ("completed", {"result": [1]})),
        ("failed", {"failedReason": "no disk", "prev": "active"}, True, ("failed", {"error": "Failed", "message": "no disk"})),
        ("retries-exhausted", {"attemptsMade": "3"}, True, None),
        ("removed", {"prev": "waiting"}, False, ("failed", {"error": "Removed"})),
        ("removed", {"prev": "completed"}, True, None),
        ("removed", {"prev": "failed"}, True, None),
        ("removed", {"prev": "unknown"}, False, None),
        ("deduplicated", {}, False, None),
        ("something-new", {}, False, None),
    ],
)
def test_what_an_entry_means(event: str, fields: dict[str, str], started: bool, told: tuple[str, dict[str, Any]] | None) -> None:
    found = translate(entry(event, **fields), Job("cut", None, started), results=True, messages=True)

    assert (found and (found.type, found.fields)) == told


def test_an_id_that_is_not_utf_8_is_shown_with_replacements() -> None:
    event = translate((b"1-0", {b"event": b"active", b"jobId": b"\xff1"}), Job(None, None, False))

    assert event
    assert event.job == "\ufffd1"


def test_results_and_error_texts_are_told_only_if_that_is_asked_for() -> None:
    job = Job("cut", None, True)
    ends = [translate(entry("completed", returnvalue="[1]"), job), translate(entry("failed", failedReason="no disk"), job)]

    assert [event and event.fields for event in ends] == [{}, {"error": "Failed"}]
    assert [event and event.final for event in ends] == [True, True]


def test_a_job_that_is_queued_again_has_not_started() -> None:
    job = Job("cut", None, False)
    entries = [entry(event, prev=prev) for event, prev in (("added", ""), ("delayed", ""), ("active", ""), ("delayed", "active"))]
    entries += [
        entry(event, prev=prev) for event, prev in (("waiting", "failed"), ("delayed", ""), ("active", ""), ("added", ""), ("delayed", ""))
    ]
    found = [translate(each, job) for each in entries]

    types = ["queued", None, "started", "retrying", "queued", None, "started", "queued", None]
    assert [event and event.type for event in found] == types


@pytest.mark.parametrize(
    ("name", "data", "attempts", "job"),
    [
        (b"cut", b'{"notify_owner":"ann","film":1}', b"2", Job("cut", "ann", True)),
        (b"cut", b'{"notify_owner":7}', b"0", Job("cut", "7", False)),
        (b"\xff", b'{"notify_owner":["ann"]}', None, Job("\ufffd", None, False)),
        (b"cut", b'["notify_owner"]', None, Job("cut", None, False)),
        (b"cut", b"{", None, Job("cut", None, False)),
        (None, None, None, Job(None, None, False)),  # BullMQ has removed it
    ],
)
def test_what_is_known_of_a_job(name: bytes | None, data: bytes | None, attempts: bytes | None, job: Job) -> None:
    assert Job.parse(name, data, attempts) == job


def test_of_the_progress_read_in_one_go_the_newest_is_told_if_nothing_follows_it() -> None:
    events = [JobEvent(b"1-0", job, type, {}) for job, type in (("1", "started"), ("1", "progress"), ("2", "progress"), ("1", "progress"))]
    ended = [*events, JobEvent(b"2-0", "1", "completed", {})]

    assert list(collapse(events)) == [events[0], *events[2:]]
    assert list(collapse(ended)) == [ended[0], ended[2], ended[4]]
