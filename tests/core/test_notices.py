"""The notices that clients get besides events: their JSON on each transport."""

from __future__ import annotations

import json

import pytest

from gateway.core.cursor import Cursor
from gateway.core.hub import Channel
from gateway.core.notices import Ref, notice, ready
from gateway.core.subscription import Subscription
from gateway.core.wire import FRAME


def cursor(name: str, position: int) -> Cursor:
    def nothing(*_: object) -> None: ...

    subscription = Subscription(wire=FRAME, write=nothing, on_behind=nothing, on_done=nothing, on_failed=nothing)
    return Cursor(subscription, Channel(name), position)


@pytest.mark.parametrize("ref", [7, 'a"b\\\n\u2028', 1.5, True, None])
def test_ready_is_json_whatever_the_client_calls_it_by(ref: Ref) -> None:
    told = json.loads(ready(ref, [cursor("jobs:1", 10), cursor("a@b.c_d-e", 0)]))

    assert told.pop("ref", None) == ref
    assert told == {"op": "ready", "channels": {"jobs:1": "10", "a@b.c_d-e": "0"}}


def test_a_notice_carries_its_fields() -> None:
    assert json.loads(notice("gap", {"channel": "jobs:1"})) == {"op": "gap", "channel": "jobs:1"}
