"""A finding as text."""

from __future__ import annotations

import click

from gateway.doctor.finding import Finding
from gateway.doctor.report import describe, summary


def test_what_is_wrong_is_told_with_the_line_to_change() -> None:
    lines = click.unstyle(describe(Finding("wrong", "SSE is held back", "buffered"))).splitlines()

    assert lines[0] == "WRONG  SSE is held back"
    assert lines[1] == "         nginx    proxy_buffering off; gzip off;   # and no proxy_ignore_headers X-Accel-Buffering"
    assert [line.split()[0] for line in lines[1:]] == ["nginx", "Caddy", "HAProxy", "Apache", "Traefik", "ALB"]


def test_what_is_well_takes_one_line() -> None:
    assert click.unstyle(describe(Finding("ok", "SSE opens"))) == "ok     SSE opens"


def test_what_is_worth_a_thought_is_told_with_the_line_to_change_too() -> None:
    lines = click.unstyle(describe(Finding("note", "HTTP/2 is not offered", "http2"))).splitlines()

    assert lines[0] == "note   HTTP/2 is not offered"
    assert lines[1] == "         nginx    listen 443 ssl http2;   # from 1.25.1 on: http2 on;"


def test_a_change_of_two_lines_keeps_its_column() -> None:
    lines = click.unstyle(describe(Finding("wrong", "SSE is compressed", "compressed"))).splitlines()

    assert lines[2:4] == ["         Caddy    @plain not path /sse", "                  encode @plain gzip zstd"]


def test_the_last_line_counts() -> None:
    assert [summary(wrong) for wrong in (0, 1, 2)] == ["All is well.", "One thing is wrong.", "2 things are wrong."]
