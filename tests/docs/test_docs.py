"""The documents: links lead somewhere, commands and options exist, and tables say what the code says."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway import __version__, metrics
from gateway.auth.tokens import MAX_REMEMBERED
from gateway.cli import main
from gateway.server.descriptors import RESERVE
from gateway.server.frames import FRAMES_AT_ONCE
from gateway.server.heads import MAX_HEADERS
from gateway.server.protocols import MAX_PIPELINED
from gateway.server.site import HEAD_SECONDS
from gateway.settings import Settings
from tests.docs.blocks import PAGES, ROOT, SAMPLES

SETTINGS = {f"GATEWAY_{field.name.upper()}": field.default for field in dataclasses.fields(Settings)}
NOT_OURS = {"GATEWAY_CMD"}  # used by a benchmark that starts the gateway
SERIES = {row.name for row in metrics.TABLE} | {f"{row.name}_{part}" for row in metrics.TABLE for part in ("bucket", "sum", "count")}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_code(text: str) -> str:
    """The prose of a page, without blocks of code and code spans."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?:    |\t).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub generates them."""
    titles = re.findall(r"^#+ +(.*?)\s*$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-") for title in titles}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target}: there is no such file"
        assert found.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert not anchor or anchor in anchors(found), f"{target}: there is no such heading"


def commands(text: str) -> Iterator[list[str]]:
    """The ``gateway`` command lines in a text: in blocks, and in code spans."""
    for line in re.findall(r"^(?:    |\t)(?:[A-Z_]+=\S+ )?(?:uv run )?(gateway [a-z].*)$", text, re.MULTILINE):
        yield words(line)
    for line in re.findall(r"`(gateway (?:[a-z]+)(?: [^`\n]*)?)`", text):
        yield words(line)
    for line in re.findall(r"\$\((?:uv run )?(gateway [^)]*)\)", text):
        yield words(line)


def words(line: str) -> list[str]:
    lexer = shlex.shlex(re.sub(r'"?\$\(.*', "X", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("<>|;&"):
            break
        found.append(word)
    return found


@pytest.mark.parametrize("path", [*PAGES, *SAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_their_options_exist(path: Path) -> None:
    for line in commands(path.read_text()):
        command = main.commands.get(line[1])
        assert command is not None, f"{line}: there is no such command"
        known = {option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts} | {"--help"}
        assert {word.split("=")[0] for word in line if word.startswith("--")} <= known, line


@pytest.mark.parametrize("path", [*PAGES, *SAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_and_metrics_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    named = {name.removesuffix("_FILE") for name in re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", text)}

    assert {name for name in named if not any(f"{known}_".startswith(f"{name}_") for known in SETTINGS)} <= NOT_OURS
    if path.name in ("operations.md", "alerts.yml", "dashboard.json"):
        assert set(re.findall(r"\bgateway_[a-z_]*(?:total|seconds|connections|behind|bucket)\b", text)) <= SERIES


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = OPERATIONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in rows("Settings")}

    assert list(told) == sorted(told, key=list(told).index)
    assert told.keys() == SETTINGS.keys()
    for name, default in SETTINGS.items():
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert told[name] == ("" if default in (None, ()) else shown), name


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    told = {name.strip("`"): label.strip("`") for name, label, _ in rows("Metrics")}

    assert told == {row.name: row.label for row in metrics.TABLE}


def test_all_parts_have_one_version_and_one_license() -> None:
    packages = [tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"] for part in ("", "clients/python")]
    packages.append(json.loads((ROOT / "clients/js/package.json").read_text()))
    packages.append(json.loads((ROOT / "gateway/pages/openapi.json").read_text())["info"])

    assert {package["version"] for package in packages} == {__version__}
    for part in ("clients/js", "clients/python"):
        assert (ROOT / part / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_bounds_of_the_edge_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "security.md").read_text()

    for value, written in (
        (Settings().max_connections, "| connections in all, `GATEWAY_MAX_CONNECTIONS` | {:,} a process |"),
        (HEAD_SECONDS, "| first byte, head of a request | {:g} s |"),
        (MAX_HEADERS, "| head | 64 KiB, address 32 KiB, {} headers |"),
        (MAX_PIPELINED, "| requests sent ahead of their answers | {} |"),
        (FRAMES_AT_ONCE, "| frames (messages, fragments, pings and pongs together) | {} at once, 40 a second |"),
        (RESERVE, "| sockets | {} fewer than the process may have open files;"),
        (MAX_REMEMBERED, "The {:,} tokens last used are remembered"),
    ):
        assert written.format(value) in text
