"""What the tests of all queues need: worker processes, and the events that were published."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

ROOT = Path(__file__).parents[4]
HERE = "clients.python.tests.integrations"


def import_anew(module):
    """Import a module of this folder, which takes its addresses from the environment.

    pytest-xdist may give the tests of one file to a process in two parts, each with a server of its own.
    """
    sys.modules.pop(f"{HERE}.{module}", None)
    return importlib.import_module(f"{HERE}.{module}")


def need(library):
    """Import a queue's library. Without it the test module is skipped, or fails in CI."""
    try:
        return importlib.import_module(library)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs {library}: uv pip install {library}", allow_module_level=True)


class Log:
    """The logs of the channels."""

    def __init__(self, url):
        self.url = url
        self.redis = redis.Redis.from_url(url, protocol=2)

    def read(self, channel):
        entries = self.redis.lrange(f"notify:log:{{{channel}}}", 0, -1)
        return [json.loads(entry.split(b"\n", 1)[1]) for entry in entries]

    def types(self, channel):
        return [event["type"] for event in self.read(channel)]

    def wait(self, channel, type, number=1):
        """Wait for so many events of this type; all events of their channel."""
        deadline = time.monotonic() + 60
        while self.types(channel).count(type) < number:
            assert time.monotonic() < deadline, f"{channel}: {self.read(channel)}"
            time.sleep(0.02)
        return self.read(channel)


@contextmanager
def running(*command, python=(sys.executable,), **environ):
    """Run a worker process; print its output if the test fails."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*python, *command], cwd=ROOT, env=os.environ | environ, stdout=output, stderr=output)
        try:
            yield process
        except BaseException:
            output.seek(0)
            print(output.read().decode(errors="replace")[-8_000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
