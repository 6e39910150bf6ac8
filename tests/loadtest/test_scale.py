from __future__ import annotations

import pytest

from loadtest.scale import COLUMNS, Costs, Limits, Load, events_of_one_redis, line, need

COSTS = Costs(
    connection=400, delivery=5, announcement=20, idle=0.5, connection_kib=20, publish=20, push=2, follow=12, job_kib=0.5, channel_kib=0.25
)


def test_an_idle_gateway_is_one_process_beside_one_redis() -> None:
    found = need(Load(users=0, jobs_per_second=0), COSTS)

    assert (found.gateways, found.redises, found.gateway_cores, found.redis_cores) == (1, 1, 0, 0)


def test_each_cost_is_multiplied_by_how_often_it_occurs() -> None:
    found = need(Load(users=1_800, jobs_per_second=10, events_per_job=10, session_seconds=1_800, keep_seconds=1_000), COSTS)

    assert found.events_per_second == 100
    assert found.gateway_cores == pytest.approx((100 * (5 + 20) + 1 * 400 + 1_800 * 0.5) / 1e6)
    assert found.redis_cores == pytest.approx((100 * (20 + 2) + (10 + 1) * 12) / 1e6)
    assert found.comeback_seconds == pytest.approx(1_800 * 400 / 1e6)
    assert found.gateway_gib == pytest.approx(1_800 * 20 / 2**20)
    assert found.redis_gib == pytest.approx((10 * 1_000 * 0.5 + 2 * 1_800 * 0.25) / 2**20)


def test_idle_connections_alone_may_need_more_processes() -> None:
    assert need(Load(users=100_000, jobs_per_second=0), COSTS, Limits(gateway_connections=16_000)).gateways == 7


def test_an_event_is_heard_by_each_gateway_that_has_a_follower() -> None:
    def cores(followers: float) -> float:
        return need(Load(users=160_000, jobs_per_second=10, events_per_job=10, followers=followers, session_seconds=1e9), COSTS).redis_cores

    assert cores(4) - cores(1) == pytest.approx((100 * 3 * 2 + 10 * 3 * 12) / 1e6)
    assert cores(1_000) - cores(990) == pytest.approx(10 * 10 * 12 / 1e6)  # each of the 10 gateways hears it once already


@pytest.mark.parametrize(
    ("load", "limits"),
    [
        (Load(users=0, jobs_per_second=3_000, events_per_job=10, keep_seconds=1), Limits(redis_share=0.6)),
        (Load(users=0, jobs_per_second=1_000, events_per_job=1, keep_seconds=86_400), Limits(redis_gib=25)),
    ],
    ids=["processor", "memory"],
)
def test_a_load_beyond_the_core_or_memory_of_one_redis_needs_two(load: Load, limits: Limits) -> None:
    assert need(load, COSTS, limits).redises == 2


def test_one_redis_records_as_many_events_as_its_core_has_time_for() -> None:
    assert events_of_one_redis(COSTS) == pytest.approx(1e6 / 22)


def test_a_line_of_the_table_has_all_columns() -> None:
    load = Load(users=100_000, jobs_per_second=200)

    text = line(load, need(load, COSTS))

    assert text.startswith("| 100,000 | 200 | 2,600 |")
    assert text.count("|") == len(COLUMNS) + 1
