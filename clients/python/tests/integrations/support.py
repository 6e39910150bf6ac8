"""What the tests of all queues need: worker processes, and a look at what was published."""

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


def need(library):
    """A queue's library; without it the module is skipped, with the line that installs it. In CI it fails instead."""
    try:
        return importlib.import_module(library)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs {library}: uv pip install {library}", allow_module_level=True)


class Log:
    """What was published."""

    def __init__(self, url):
        self.url = url
        self.redis = redis.Redis.from_url(url, protocol=2)

    def read(self, channel):
        entries = self.redis.lrange(f"notify:log:{{{channel}}}", 0, -1)
        return [json.loads(entry.split(b"\n", 1)[1]) for entry in entries]

    def types(self, channel):
        return [event["type"] for event in self.read(channel)]

    def wait(self, channel, type, seconds=15):
        """The events of a channel once one of this type is there."""
        deadline = time.monotonic() + seconds
        while type not in self.types(channel):
            assert time.monotonic() < deadline, f"{channel}: {self.read(channel)}"
            time.sleep(0.02)
        return self.read(channel)


@contextmanager
def running(*command, python=(sys.executable,), **environ):
    """A worker as a process of its own."""
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
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
