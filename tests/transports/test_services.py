"""The services that endpoints share: when a stream may be opened."""

from __future__ import annotations

import pytest

from gateway import Settings, create_app
from gateway.errors import Unavailable


def test_a_gateway_takes_streams_only_while_it_runs() -> None:
    services = create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none")).services
    with pytest.raises(Unavailable, match="lifespan"):
        services.check_room("127.0.0.1")
    services.running = True
    services.check_room("127.0.0.1")
    services.draining = True
    with pytest.raises(Unavailable, match="shutting down"):
        services.check_room("127.0.0.1")
