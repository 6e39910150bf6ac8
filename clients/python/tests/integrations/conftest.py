"""A real Valkey for each queue."""

import pytest

from clients.python.tests.integrations.support import Log
from gateway.embedded import embedded_server


@pytest.fixture(scope="module")
def redis_url():
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="module")
def log(redis_url):
    log = Log(redis_url)
    yield log
    log.redis.close()
