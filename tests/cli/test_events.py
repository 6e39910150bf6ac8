"""``gateway publish`` and ``gateway watch``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from tests.support.command import run


def test_publish_prints_the_id_and_watch_the_event(redis_url: str) -> None:
    published = run("publish", "jobs:42", '{"type":"completed","data":{"url":"/files/42"},"final":true}', "--key", "k", redis_url=redis_url)
    again = run("publish", "jobs:42", '"other"', "--key", "k", redis_url=redis_url)
    watched = run("watch", "jobs:42", "--until-final", redis_url=redis_url)

    id = published.stdout.strip()
    assert published.returncode == watched.returncode == 0
    assert again.stdout.strip() == id
    assert json.loads(watched.stdout) == {
        "type": "completed",
        "data": {"url": "/files/42"},
        "final": True,
        "channel": "jobs:42",
        "id": id,
    }


def test_watch_ends_at_ctrl_c(redis_url: str) -> None:
    environ = os.environ | {"GATEWAY_REDIS_URL": redis_url}
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "watch", "jobs:1"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stderr is not None
        assert '"ready"' in watch.stderr.readline()
        watch.send_signal(signal.SIGINT)

        assert watch.wait(5) == 130
        assert watch.stderr.read() == ""
