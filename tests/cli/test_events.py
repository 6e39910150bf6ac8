"""``gateway publish`` and ``gateway watch``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest
from click.testing import CliRunner

from gateway.cli.events import watch
from gateway.store.listener import Listener
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


def test_publish_notes_that_what_looks_like_an_event_is_mere_data(redis_url: str) -> None:
    for text, noted in (
        ('{"type":"progress","percent":40}', True),
        ('{"final":true}', True),
        ('{"type":7}', True),
        ('{"type":"message","data":{"type":"progress","percent":40}}', False),
        ('{"data":1}', False),
        ("40", False),
    ):
        published = run("publish", "jobs:42", text, redis_url=redis_url)

        assert published.returncode == 0
        assert published.stdout.strip().isdigit()
        assert published.stderr.startswith('note: all of it becomes the data of an event of type "message": ') == noted, text


def test_a_live_event_has_no_id_to_print_and_reaches_those_connected(redis_url: str) -> None:
    with watching("jobs:42", redis_url) as (_, events, _notices):
        published = run("publish", "jobs:42", '{"type":"typing","data":1}', "--live", redis_url=redis_url)

        assert (published.returncode, published.stdout) == (0, "")
        assert json.loads(events.readline()) == {"type": "typing", "data": 1, "channel": "jobs:42"}


def test_publish_refuses_options_of_recorded_events_for_a_live_one(redis_url: str) -> None:
    for option in (("--key", "a"), ("--keep", "1"), ("--ttl", "1"), ("--collapse", "a")):
        refused = run("publish", "jobs:42", "1", "--live", *option, redis_url=redis_url)

        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--live records nothing" in refused.stderr


def test_publish_says_how_a_shell_takes_json(redis_url: str) -> None:
    for text, hinted in (("hello", True), ("{type:progress}", True), ('{"type":', False)):
        refused = run("publish", "jobs:42", text, redis_url=redis_url)

        assert refused.returncode == 2
        assert ("put it into single quotes" in refused.stderr) == hinted, text


def test_watch_prints_each_event_on_one_line_that_a_terminal_takes_for_text(redis_url: str) -> None:
    forged = '{"type":"completed","data":1,"channel":"jobs:2","id":"1"}'
    data = f'[\r\n{forged}\r\n,"\x7f\x9b2Jé\x9d0;title\x9c"]'
    run("publish", "jobs:line", f'{{"type":"t","data":{data},"final":true}}', redis_url=redis_url)

    watched = run("watch", "jobs:line", "--until-final", redis_url=redis_url)

    [line] = watched.stdout.splitlines()
    assert json.loads(line)["data"] == json.loads(data)
    assert line.replace("é", "").isprintable()


@contextmanager
def watching(channel: str, redis_url: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """Run ``gateway watch``; entered once it is ready, and killed if it does not end."""
    command = [sys.executable, "-m", "gateway", "watch", channel]
    environ = os.environ | {"GATEWAY_REDIS_URL": redis_url}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        try:
            assert '"ready"' in watch.stderr.readline()
            yield watch, watch.stdout, watch.stderr
        finally:
            watch.kill()


def test_watch_ends_at_ctrl_c(redis_url: str) -> None:
    with watching("jobs:1", redis_url) as (watch, _, notices):
        watch.send_signal(signal.SIGINT)

        assert watch.wait(30) == 130
        assert notices.read() == ""


def test_watch_ends_when_its_output_is_closed(redis_url: str) -> None:
    with watching("jobs:head", redis_url) as (watch, events, notices):
        events.close()
        run("publish", "jobs:head", "1", redis_url=redis_url)

        assert watch.wait(30) == 0
        assert notices.read() == ""


def test_watch_fails_if_what_it_listens_with_dies(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(_: Listener) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Listener, "run", die)
    ended = CliRunner().invoke(watch, ["jobs:1"], env={"GATEWAY_REDIS_URL": redis_url})

    assert isinstance(ended.exception, ZeroDivisionError)
