from __future__ import annotations

import inspect
import io
import json
import logging
import logging.config
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from uvicorn.config import LOGGING_CONFIG
from uvicorn.server import Server

from gateway.server.logs import MAX_KINDS, Repeats, log_config
from gateway.transports.log_lines import about
from tests.support.threads import threads_in_vain

SECRET = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2VjcmV0"


@pytest.fixture(params=["text", "json"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Restore the logging of this process after the test."""
    loggers = [logging.getLogger(name) for name in (None, "gateway", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate, logger.disabled) for logger in loggers]
    yield
    for logger, handlers, level, propagate, disabled in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


def configured(kind: str, level: str = "debug", **repeats: float) -> io.StringIO:
    """Configure logging; the stream that the lines go to."""
    stream = io.StringIO()
    config = log_config(level, kind)
    config["filters"]["repeats"] |= repeats
    config["handlers"]["stderr"]["stream"] = stream
    logging.config.dictConfig(config)
    return stream


@pytest.fixture
def output(kind: str, as_it_was: None) -> io.StringIO:
    return configured(kind)


def test_our_own_lines_are_logged_at_the_level_that_is_set(output: io.StringIO) -> None:
    logging.getLogger("gateway.feed").debug("a line")

    assert "a line" in output.getvalue()


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets.server", "httpx", "asyncio"])
def test_the_lines_of_libraries_for_each_request_are_left_out(output: io.StringIO, name: str) -> None:
    for level in (5, logging.DEBUG, logging.INFO):
        logging.getLogger(name).log(level, '%s - "WebSocket %s" [accepted]', "127.0.0.1:5", f"/ws?token={SECRET}")

    assert output.getvalue() == ""


def test_warnings_of_libraries_are_logged(output: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")

    assert "Exception in ASGI application" in output.getvalue()


def test_a_shutdown_that_cancels_nothing_is_no_error(output: io.StringIO) -> None:
    form = next(line for line in inspect.getsource(Server.shutdown).splitlines() if "Cancel %s" in line).strip().strip('",')
    for count in (0, 2):
        logging.getLogger("uvicorn.error").error(form, count)

    assert "Cancel 2 running" in output.getvalue()
    assert "Cancel 0 running" not in output.getvalue()


def test_it_works_after_uvicorn_has_configured_logging(kind: str, as_it_was: None) -> None:
    logging.config.dictConfig(LOGGING_CONFIG)
    output = configured(kind)

    logging.getLogger("uvicorn.error").error("Exception in ASGI application")

    assert "Exception in ASGI application" in output.getvalue()


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\x00b", "a\x1b[31mb", "a\x85b", "a\u2028b", "a\u2029b"])
def test_a_line_stays_one_line_whatever_is_in_it(output: io.StringIO, kind: str, text: str) -> None:
    logging.getLogger("gateway").warning("from a stranger: %s", text)

    lines = output.getvalue().splitlines()
    assert len(lines) == 1 or kind == "json"
    if kind == "json":
        assert json.loads(output.getvalue())["message"] == f"from a stranger: {text}"
        assert len(output.getvalue().strip("\n").split("\n")) == 1
    else:
        assert not any(character in lines[0] for character in "\x00\x1b")


def test_the_fields_of_a_line_are_logged_and_cannot_forge_another(output: io.StringIO, kind: str) -> None:
    logging.getLogger("gateway").info("ended with %d", 4401, extra=about(connection="7-41", subject="ann\nb", address=""))

    line = output.getvalue()
    if kind == "json":
        fields = json.loads(line)
        assert abs(datetime.fromisoformat(fields.pop("time")).timestamp() - time.time()) < 60
        about_it = {"connection": "7-41", "subject": "ann\nb"}
        assert fields == {"level": "info", "logger": "gateway", "message": "ended with 4401"} | about_it
    else:
        told = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    gateway: ended with 4401 \(connection 7-41, subject ann\\nb\)\n"
        assert re.fullmatch(told, line)


def test_no_line_of_a_traceback_looks_like_one_of_ours(output: io.StringIO, kind: str) -> None:
    try:
        raise ValueError("a\n2026-11-21 10:00:00 INFO    gateway: all is well\x1b[31m")  # noqa: TRY301
    except ValueError:
        logging.getLogger("gateway").exception("failed")

    lines = output.getvalue().strip("\n").split("\n")
    assert "ValueError: a" in (json.loads(lines[0])["exception"] if kind == "json" else output.getvalue())
    assert "\x1b" not in output.getvalue()
    assert len(lines) == 1 or all(line.startswith("  ") for line in lines[1:])


def lines_of(output: io.StringIO, kind: str) -> list[str]:
    return [json.loads(line)["message"] if kind == "json" else line.split(": ", 1)[1] for line in output.getvalue().splitlines()]


def test_repeated_lines_hold_nobody_up_though_the_thread_that_counts_them_finds_no_memory(as_it_was: None) -> None:
    output = configured("text", lines=3, seconds=1)
    with threads_in_vain():
        for i in range(50):
            logging.getLogger("gateway.feed").warning("channel %s: dropped", i)

    assert len(lines_of(output, "text")) == 3


def test_a_repeated_line_is_logged_a_few_times_and_then_counted(kind: str, as_it_was: None) -> None:
    output = configured(kind, lines=1, seconds=1)
    for i in range(50):
        logging.getLogger("gateway.feed").warning("channel %s: dropped", i)
    logging.getLogger("gateway.feed").warning("something else")
    for _ in range(3):
        logging.getLogger("gateway.feed").info("refused with %d", 401, extra={"kind": "401"})
    deadline = time.monotonic() + 30
    while output.getvalue().count("more") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    logging.getLogger("gateway.feed").warning("channel %s: dropped", 50)

    first, sums, last = (lines := lines_of(output, kind))[:3], lines[3:5], lines[5:]
    assert first == ["channel 0: dropped", "something else", "refused with 401"]
    assert sorted(sums) == [
        "2 more lines like this one in 1 s: refused with ... (401)",
        "49 more lines like this one in 1 s: channel ...: dropped",
    ]
    assert last == ["channel 50: dropped"]


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("gateway", logging.WARNING, "", 0, text, None, None)


def test_a_line_that_comes_seldom_is_always_logged() -> None:
    repeats = Repeats(lines=1, seconds=0.05)
    passed = repeats.filter(line("away"))
    time.sleep(0.1)

    assert (passed, repeats.filter(line("away"))) == (True, True)


def test_of_lines_that_all_differ_only_so_many_are_remembered() -> None:
    repeats = Repeats()

    assert all(repeats.filter(line(f"{number} of many")) for number in range(3 * MAX_KINDS))
    assert len(repeats._seen) <= MAX_KINDS + 1


@pytest.mark.parametrize("name", ["gateway.feed", "uvicorn.error", "asyncio"])
def test_at_level_error_no_warning_is_logged(as_it_was: None, name: str) -> None:
    output = configured("text", level="error")
    logging.getLogger(name).warning("away")
    logging.getLogger(name).error("lost")

    assert lines_of(output, "text") == ["lost"]


def test_a_line_about_the_end_of_the_process_is_never_suppressed(kind: str, as_it_was: None) -> None:
    output = configured(kind, lines=1, seconds=60)
    for _ in range(3):
        logging.getLogger("gateway").critical("the feed has died")

    assert len(lines_of(output, kind)) == 3


def test_logging_while_the_process_ends_does_not_delay_it() -> None:
    # Like futures whose exceptions nobody has read, when the interpreter deletes them.
    program = """if True:
        import gc, logging.config
        from gateway.server.logs import MAX_KINDS, Repeats, log_config

        class Late:
            def __init__(self):
                self.itself = self

            def __del__(self, log=logging.getLogger("gateway").error):
                for _ in range(10):
                    log("late")

        logging.config.dictConfig(log_config("info", "text"))
        gc.disable()
        Late()
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)

    assert ended.stderr.count(b"late") == 5
    assert ended.returncode == 0


def test_a_line_logged_while_another_is_being_logged_is_not_lost(output: io.StringIO, kind: str) -> None:
    # As if the garbage collector ran in between, and deleted something that logs a line.
    class Interrupted(str):
        __slots__ = ()

        def __hash__(self) -> int:
            logging.getLogger("gateway").warning("in between")
            return super().__hash__()

    thread = threading.Thread(
        target=logging.getLogger("gateway").info, args=("said",), kwargs={"extra": {"kind": Interrupted("a")}}, daemon=True
    )
    thread.start()
    thread.join(10)

    assert lines_of(output, kind)[-1] == "said"
