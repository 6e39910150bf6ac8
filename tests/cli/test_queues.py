"""``gateway tap``; what it publishes is tested beside it and with the real BullMQ."""

from __future__ import annotations

import pytest

from tests.support.command import invoke


@pytest.mark.parametrize("channel", ["jobs:{id", "jobs:{name}", "jobs:1", "jobs {id}", "{id.x}"])
def test_an_invalid_channel_is_refused_at_the_start(channel: str) -> None:
    result = invoke("tap", "bullmq", "films", "--channel", channel)

    assert result.exit_code == 2
    assert "--channel" in result.output


def test_the_source_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLMQ_REDIS_URL", "http://user:secret@localhost")

    result = invoke("tap", "bullmq", "films", redis_url="redis://localhost")

    assert result.exit_code != 0
    assert "--source: " in result.output
    assert "secret" not in result.output
