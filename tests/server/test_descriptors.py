from __future__ import annotations

import subprocess
import sys

# Lower from step to step, as only the superuser may raise them again.
LIMITS = [(256, 1024), (512, 512), (64, 100)]

SCRIPT = """
import resource
from gateway.server.descriptors import most_sockets, raise_limit
for limits in LIMITS:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    most_sockets.cache_clear()
    print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE), most_sockets())
"""


def test_the_limit_is_raised_and_some_descriptors_are_kept_back() -> None:
    done = subprocess.run([sys.executable, "-c", f"LIMITS = {LIMITS}\n{SCRIPT}"], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["1024 1024 1024 960", "512 512 512 448", "100 100 100 50"]
