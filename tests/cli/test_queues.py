"""``gateway tap``; what it publishes is tested beside it and with the real BullMQ."""

from __future__ import annotations

import pytest

from tests.support.command import invoke


@pytest.mark.parametrize("channel", ["jobs:{id", "jobs:{name}", "jobs:1", "jobs {id}", "{id.x}"])
def test_an_invalid_channel_is_refused_at_the_start(channel: str) -> None:
    result = invoke("tap", "bullmq", "films", "--channel", channel)

    assert result.exit_code == 2
    assert "--channel" in result.output


@pytest.mark.parametrize(
    "address",
    [
        "http://user:secret@localhost",
        "redis://:secret",  # somebody forgot the @ and the host
        "redis://:secret@localhost?timeout_of_somebody_else=1",
        "redis://:secret@localhost/films",
        "redis+sentinel://:secret@localhost",
    ],
)
def test_a_wrong_source_is_refused_at_the_start_and_not_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLMQ_REDIS_URL", address)

    result = invoke("tap", "bullmq", "films", redis_url="redis://127.0.0.1:1")

    assert result.exit_code == 2
    assert "--source" in result.output
    assert "redis://host:6379" in result.output
    assert "secret" not in result.output
