"""How the tests run the commands of the documents: what they replace in them, and which they do not run, and why.

A command without a row is run as it is written, and must exit with 0. A row that matches no command is an error.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.docs.blocks import ROOT, Block

# Text in the document -> text that is run. It fills in the addresses {redis} and {http}, and shortens what takes long.
HERE: Final = {
    r"redis://localhost:6379": "{redis}",
    r"http://(?:127\.0\.0\.1|localhost):8000": "{http}",
    r"https://app\.example(?:/notify)?": "{http} --patience 1",
    r"GATEWAY_JWT_SECRET=…": "GATEWAY_JWT_SECRET={secret}",
    r"(?<=locust -f loadtest/locustfile.py --host )(\S+)$": r"\1 --web-port {port} --web-host 127.0.0.1",
    r"-u \d+ -r \d+ -t \d+s": "-u 6 -r 6 -t 4s --job-seconds 1 --only-summary",
    r"--workers 4": "--workers 1",
    r"(?<=gateway demo)$": " --port 0",
    r"/etc/gateway": "{folder}/etc-gateway",
}


@dataclass(frozen=True, slots=True)
class Lasting:
    """A command that runs until it is ended.

    Attributes:
        command: a regular expression that matches it
        ready: what shows that it does what it should: in its output, or (with ``{``) an address that answers
        stays: whether the page needs it until its end
    """

    command: str
    ready: str
    stays: bool = False


LASTING: Final = (
    Lasting(r"gateway serve", "{http}/readyz", stays=True),
    Lasting(r"gateway demo", r"http://127\.0\.0\.1:\d+"),
    Lasting(r"gateway watch", r'"type":"completed"'),
    Lasting(r"^curl -N", r'"type":"completed"'),
    Lasting(r"gateway tap", r"queue mails: reading its events"),
    Lasting(r"locust .*--web-port", "http://127.0.0.1:{port}/"),
)


@dataclass(frozen=True, slots=True)
class NotRun:
    """A command that is not run as it stands.

    Attributes:
        command: a regular expression that matches it
        why: the reason
        instead: the command that is run instead; ``None`` for none
        tool: a program that this one needs
    """

    command: str
    why: str
    instead: str | Callable[[re.Match[str]], str] | None = None
    tool: str = ""


def _help(found: re.Match[str]) -> str:
    """Look every option up in the program's own help, which is asked for once."""
    options = re.findall(r"(?<= )--[a-z-]+", found[2].partition("   #")[0])
    name = re.sub(r"\W", "_", found[1])
    return f': "${{{name}:=$({found[1]} --help)}}"' + "".join(f'; grep -q -e "{option}" <<<"${name}"' for option in options)


def _list(found: re.Match[str]) -> str:
    """Let locust read its options, and look the kinds of users up in what it lists."""
    users = re.findall(r"\b[A-Z][a-z]\w+", found[1])
    return f"users=$(locust -f loadtest/locustfile.py{found[1]} --list)" + "".join(f"; grep -q -w {user} <<<$users" for user in users)


NOT_RUN: Final = (
    NotRun(r"uv run pytest$", "this is it"),
    NotRun(r"^pip install uv(?: && |$)", "network; whoever runs this has it", ""),
    NotRun(
        r"^pip install (\./clients/python|'\./clients/python\[subscribe\]')$",
        "network; it is here",
        "python -c 'import notify_client, websockets, httpx'",
    ),
    NotRun(r"^uv run (pytest tests/faults)(.*)", "minutes", _help),
    NotRun(r"^uv run --group loadtest (python loadtest/compare/run.py)(.*)", "minutes; .ci/run runs it with --small", _help),
    NotRun(r"^locust …(.*)", "the one above is; tests/loadtest/test_locust.py runs it with these users, storms and churn", _list),
    NotRun(r"^uv run --group loadtest (python loadtest/costs.py)(.*)", "minutes of all CPU", _help),
    NotRun(
        r"^apt-get install nginx-light libnginx-mod-nchan$",
        "root and network",
        "apt-cache policy nginx-light libnginx-mod-nchan",
        tool="apt-cache",
    ),
    NotRun(r"^npm install --no-save --prefix loadtest/compare ws socket.io$", "network, and it writes into the checkout"),
    NotRun(
        r"^(.*)docker compose(.*) up$",
        "pulls images, and there is no Docker in a test",
        lambda found: f"{found[1]}docker-compose{found[2]} config --quiet",
        tool="docker-compose",
    ),
    NotRun(
        r"^kubectl (create secret .*)", "there is no cluster", lambda found: f"kubectl {found[1]} --dry-run=client -o yaml", tool="kubectl"
    ),
    NotRun(r"^kubectl apply -f (\S+)$", "there is no cluster; test_kubernetes.py looks at what it applies", "test -f \\1"),
    NotRun(r"^python3 -m venv /opt/gateway", "root and network"),
    NotRun(r"^systemctl enable --now gateway$", "root; test_samples.py has systemd-analyze look at the unit"),
)

# Settings that a page speaks of in words.
SETTINGS: Final = {"loadtest/README.md": {"GATEWAY_AUTH": "none"}}

# Pages whose code another test runs, block by block.
ELSEWHERE: Final = {
    "docs/any-language.md": ("tests/integration/test_any_language.py", "tests/browser/test_examples.py"),
    "docs/workflows/*.md": ("tests/browser/test_workflows.py",),
}

# Blocks of no language that a machine runs: how they begin, and what they are.
NO_CODE: Final = {
    r"flowchart LR": "a drawing",
    r"FCALL notify_publish 1 <channel> <json>": "the form of a command",
    r"200 \{": "an answer",
    r"POST /authorize ": "a question and its answers",
    r"ok     the gateway answers": "what the doctor prints",
}

# What a page's Python has from elsewhere, in the reader's own program.
PRELUDES: Final = {
    "README.md": "from fastapi import FastAPI\n",
    "clients/python/README.md": "def get_token(): return 'none'\n",
    "docs/operations.md": "url = 'redis://localhost:6379'\n",
    "docs/security.md": "from fastapi import Response\nsecret, response = 'x' * 32, Response()\n",
}


def elsewhere(page: Path) -> tuple[str, ...]:
    """The tests that run a page's code, if it is not followed like the others."""
    name = str(page.relative_to(ROOT))
    return next((tests for pattern, tests in ELSEWHERE.items() if fnmatch.fnmatch(name, pattern)), ())


def no_code(block: Block) -> bool:
    """Whether a block is nothing that a machine runs."""
    return any(re.match(begins, block.text) for begins in NO_CODE)
