"""The entries of BullMQ's stream in our words."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.tap.bullmq import Job, translate


@pytest.mark.parametrize(
    ("event", "fields", "started", "told"),
    [
        ("waiting", {}, False, None),
        ("waiting", {"prev": "delayed"}, False, None),
        ("waiting", {"prev": "active"}, True, ("retrying", {})),  # an attempt failed, or the job stalled
        ("waiting", {"prev": "failed"}, True, ("queued", {})),
        ("stalled", {}, True, None),
        ("delayed", {"delay": "1"}, False, None),
        ("delayed", {"delay": "1"}, True, ("retrying", {})),
        ("progress", {"data": "40"}, True, ("progress", {"percent": 40})),
        ("progress", {"data": '{"page":3}'}, True, ("progress", {"page": 3})),
        ("progress", {"data": '"half"'}, True, ("progress", {"value": "half"})),
        ("progress", {"data": "{"}, True, ("progress", {"value": "b'{'"})),
        ("completed", {"returnvalue": "[1]", "prev": "active"}, True, ("completed", {"result": [1]})),
        ("failed", {"failedReason": "no disk", "prev": "active"}, True, ("failed", {"error": "Failed", "message": "no disk"})),
        ("retries-exhausted", {"attemptsMade": "3"}, True, None),
        ("removed", {"prev": "waiting"}, False, ("failed", {"error": "Removed"})),
        ("removed", {"prev": "completed"}, True, None),
        ("deduplicated", {}, False, None),
        ("something-new", {}, False, None),
    ],
)
def test_what_an_entry_means(event: str, fields: dict[str, str], started: bool, told: tuple[str, dict[str, Any]] | None) -> None:
    entry = {name.encode(): value.encode() for name, value in ({"event": event, "jobId": "1"} | fields).items()}

    found = translate((b"1-0", entry), Job("cut", None, started), results=True, messages=True)

    assert (found and (found.type, found.fields)) == told
