"""An examination reports what is well, and stops where further checks would be useless."""

from __future__ import annotations

from gateway.doctor.examination import examine
from tests.doctor.conftest import Deployments, wrong


async def test_a_good_deployment_is_found_well_and_its_events_come_back(deployments: Deployments) -> None:
    found = [finding async for finding in examine(deployments.url("good"), token=None, channel="doctor:good", patience=0.3)]

    texts = "\n".join(finding.text for finding in found)
    assert [finding.text for finding in found if finding.kind == "wrong"] == []
    for part in ("over WebSocket, in", "over SSE, in", "/metrics is not open", "WebSocket is still open", "SSE is still open"):
        assert part in texts


async def test_redis_down_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("redis down"))

    assert found.text.startswith("not ready: 503 'there is no connection to Redis")
    assert "gateway check" in found.remedy["gateway"]


async def test_a_proxy_that_says_in_its_own_words_that_it_is_not_ready_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("maintenance"))

    assert found.text == "not ready: 503 'Service Temporarily Unavailable'"


async def test_a_proxy_that_cuts_a_request_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("cut"))

    assert found.text.startswith("a request was not answered: RemoteProtocolError ")
    assert "proxy_read_timeout" in found.remedy["nginx"]
