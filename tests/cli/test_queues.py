"""``gateway tap``; what it publishes is tested beside it and with the real BullMQ."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from redis import Redis

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


def test_a_tap_that_a_supervisor_ends_leaves_the_queue_to_another_at_once(redis_url: str) -> None:
    lease = "notify:tap:{bull:films}:lease"
    command = [sys.executable, "-m", "gateway", "tap", "bullmq", "films"]
    tap = subprocess.Popen(command, env=os.environ | {"GATEWAY_REDIS_URL": redis_url}, stderr=subprocess.PIPE, text=True)
    with tap, Redis.from_url(redis_url) as redis:
        try:
            assert tap.stderr
            assert any("reading its events" in line for line in tap.stderr)
            held = redis.exists(lease)
            tap.terminate()
            tap.wait(30)
            assert (held, redis.exists(lease)) == (1, 0)
        finally:
            tap.kill()


def test_a_tap_logs_in_the_form_that_the_settings_say(redis_url: str) -> None:
    command = [sys.executable, "-m", "gateway", "tap", "bullmq", "films"]
    environ = os.environ | {"GATEWAY_REDIS_URL": redis_url, "GATEWAY_LOG_FORMAT": "json"}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as tap:
        try:
            assert tap.stderr
            line = json.loads(tap.stderr.readline())
        finally:
            tap.kill()

    assert (line["level"], line["logger"]) == ("info", "gateway.tap")
