"""The private Valkey."""

from __future__ import annotations

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from gateway.embedded import NoServer, embedded_server


def test_it_answers_while_it_is_entered_and_is_gone_after() -> None:
    with embedded_server("--maxmemory", "3mb") as url, Redis.from_url(url) as client:
        assert client.ping()
        assert client.config_get("maxmemory") == {"maxmemory": str(3 * 1024 * 1024)}

    with pytest.raises(RedisConnectionError), Redis.from_url(url) as client:
        client.ping()


def test_a_server_that_does_not_start_is_told() -> None:
    with pytest.raises(NoServer, match="ended with"), embedded_server("--no-such-option", "1"):
        pass
