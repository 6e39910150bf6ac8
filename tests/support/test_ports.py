"""Each of pytest's workers has ports of its own."""

from __future__ import annotations

from tests.support.ports import share


def test_the_workers_share_all_ports_and_no_two_have_the_same() -> None:
    ports = range(10_000, 32_000)
    shares = [share(ports, {"PYTEST_XDIST_WORKER": f"gw{i}", "PYTEST_XDIST_WORKER_COUNT": "4"}) for i in range(4)]

    assert sorted(port for own in shares for port in own) == list(ports)
    assert share(ports, {}) == ports  # without workers
