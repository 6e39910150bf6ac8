"""The rate limit of one client."""

from __future__ import annotations

import pytest

from gateway.core.rate_limit import RateLimit
from gateway.errors import TooMany


def test_an_allowance_is_used_up_and_comes_back_with_time() -> None:
    limit = RateLimit(0, "commands", 300, 20)
    for _ in range(290):
        limit.take(0)
    limit.take(0, 10)
    with pytest.raises(TooMany, match="more than 20 commands a second"):
        limit.take(0)

    limit.take(1, 20)
    with pytest.raises(TooMany):
        limit.take(1)

    limit.take(1_000, 300)
    with pytest.raises(TooMany):
        limit.take(1_000)
