import time

import pytest

from tests.support.slowness import slowness


def test_it_is_what_the_clock_shows_for_each_second_of_cpu(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 3 * time.thread_time())

    assert slowness() == pytest.approx(3, rel=0.1)
