"""How much one client may ask for."""

from __future__ import annotations

import pytest

from gateway.errors import TooMany
from gateway.transports.allowance import Allowance


def test_an_allowance_is_used_up_and_comes_back_with_time() -> None:
    allowance = Allowance(0, "commands", 300, 20)
    for _ in range(290):
        allowance.take(0)
    allowance.take(0, 10)
    with pytest.raises(TooMany, match="more than 20 commands a second"):
        allowance.take(0)

    allowance.take(1, 20)
    with pytest.raises(TooMany):
        allowance.take(1)
