"""Ports: each of pytest's workers takes its own, because two that tried the same free port at once would talk to each other's server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gateway import embedded

_ALL = embedded.ports


def share(ports: range, environ: Mapping[str, str]) -> range:
    """Those of these ports that one of pytest's workers has, which xdist names in its environment."""
    worker = int(environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return ports[worker :: int(environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def take_share() -> None:
    """Have ``free_port`` give only ports of this worker. It may be called again."""
    embedded.ports = share(_ALL, os.environ)
