"""arq: the jobs of a real worker publish their progress. arq needs redis < 6, so it runs in an environment of its own, made by uv."""

import os
import shutil
import subprocess

import pytest

from clients.python.tests.integrations.support import HERE, ROOT, running

EXPECTED = {
    "resize": ["queued", "started", "progress", "completed"],
    "broken": ["queued", "started", "failed"],
    "flaky": ["queued", "started", "retrying", "started", "completed"],
    "hopeless": ["queued", "started", "retrying", "started", "failed"],
    "hang": ["queued", "started", "failed"],
}


@pytest.fixture(scope="module")
def python():
    """The command of a Python that has arq."""
    network = [] if os.environ.get("CI") else ["--offline"]
    command = [shutil.which("uv") or "uv", "run", "--quiet", "--no-project", *network, "--with", "arq", "python"]
    if not shutil.which("uv") or subprocess.run([*command, "-c", "import arq"], check=False, cwd=ROOT, capture_output=True).returncode:
        if os.environ.get("CI"):
            pytest.fail("arq cannot be installed")
        pytest.skip("needs arq in the cache of uv: uv run --no-project --with arq python -c 'import arq'")
    return command


@pytest.fixture(scope="module")
def ids(python, redis_url):
    """The ids of the jobs, by their names."""
    environ = {"TEST_REDIS_URL": redis_url, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}"}
    with running("-m", "arq", f"{HERE}.arq_jobs.WorkerSettings", python=python, **environ):
        done = subprocess.run(
            [*python, "-m", f"{HERE}.arq_jobs", *EXPECTED], cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=True
        )
        yield dict(zip(EXPECTED, done.stdout.split(), strict=True))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_job_reports_from_the_queue_to_its_end(ids, log, name):
    end = EXPECTED[name][-1]
    events = log.wait(f"jobs:{ids[name]}", end)
    log.wait(f"user:owner-of-{name}", end)

    assert [event["type"] for event in events] == EXPECTED[name]
    assert log.types(f"user:owner-of-{name}") == EXPECTED[name]
    assert events[-1]["final"] is True


def test_a_job_that_arq_has_already_is_not_told_of_again(ids, log):
    log.wait("jobs:ours", "completed")

    assert log.types("jobs:ours") == EXPECTED["resize"]


def test_an_end_says_what_is_asked_for_and_nothing_more(ids, log):
    ends = {name: log.wait(f"jobs:{id}", EXPECTED[name][-1])[-1]["data"] for name, id in ids.items()}

    assert ends["resize"] == {"result": {"url": "/files/42"}, "job": ids["resize"], "task": "resize"}
    assert ends["broken"] == {"error": "ValueError", "job": ids["broken"], "task": "broken"}
    assert ends["hopeless"]["error"] == "MaxRetriesExceeded"


OWN_HOOKS = """
import asyncio
from notify_client.integrations.arq import report_jobs

@report_jobs("redis://127.0.0.1:1")
class WorkerSettings:
    async def after_job_end(ctx): print("end", ctx)
    async def on_shutdown(ctx): print("shutdown", ctx)

asyncio.run(WorkerSettings.after_job_end({}))
asyncio.run(WorkerSettings.on_shutdown({}))
"""


def test_hooks_of_ones_own_are_still_called(python):
    environ = os.environ | {"PYTHONPATH": str(ROOT / "clients" / "python")}
    done = subprocess.run([*python, "-c", OWN_HOOKS], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["end {}", "shutdown {}"]
