"""The doctor finds what a real nginx does wrong to streams, and nothing else."""

from __future__ import annotations

import re

import pytest
from redis.asyncio import Redis

from gateway.doctor import delivery
from gateway.doctor.deployment import Deployment
from gateway.doctor.finding import Finding
from gateway.doctor.streams import Socket
from gateway.embedded import embedded_server
from tests.doctor.conftest import Deployments, wrong
from tests.support.servers import running_gateway


async def test_a_proxy_that_holds_events_back_is_found(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_SECONDS", 6.0)  # all of which it waits; a loaded machine opens the WebSocket within them
    (found,) = await wrong(deployments.url("buffering"))

    assert found.text.startswith("SSE is held back")
    assert "proxy_buffering off" in found.remedy["nginx"]


async def test_a_redis_that_takes_no_events_is_found() -> None:
    with embedded_server() as url, running_gateway(url) as gateway:
        async with Redis.from_url(url) as redis:
            await redis.config_set("maxmemory", 1)
        (found,) = await wrong(gateway.http)

    assert found.text.startswith("no event could be published: 503 ")
    assert "gateway check" in found.remedy["gateway"]


async def test_an_application_that_takes_the_events_in_place_of_the_gateway_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("page"))

    assert found.text == "POST /publish is not answered by the gateway, but by something else"
    assert "proxy_pass" in found.remedy["nginx"]


async def test_an_idle_timeout_is_found_and_measured(deployments: Deployments) -> None:
    found = await wrong(deployments.url("idle"), patience=15)

    assert [finding.text.split(" is cut after ")[0] for finding in found] == ["WebSocket", "SSE"]
    for finding in found:
        assert 0.5 < float(finding.text.split(" is cut after ")[1].split(" s")[0]) < 8
        assert "proxy_read_timeout" in finding.remedy["nginx"]
        assert re.search(r"GATEWAY_HEARTBEAT_SECONDS=[1-4]$", finding.text)  # half of that


def test_a_heartbeat_in_half_of_the_idle_timeout_is_advised() -> None:
    assert [delivery._advice(quiet).rpartition("=")[2] for quiet in (0.5, 9.0, 60.0)] == ["1", "4", "30"]


async def test_compressed_event_streams_are_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("gzip"))

    assert found.text.startswith("SSE is compressed ('gzip')")
    assert "gzip off" in found.remedy["nginx"]


async def test_a_proxy_that_passes_no_upgrade_on_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("no upgrade"))

    assert found.text == "WebSocket does not get through: answered 426"
    assert "Upgrade $http_upgrade" in found.remedy["nginx"]


async def test_a_proxy_that_sends_the_websocket_elsewhere_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("sent on"))

    assert found.text.startswith("WebSocket does not get through: ")
    assert "https://other.example/ws" in found.text


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("no sse", "SSE does not get through: answered 404", "cut"),
        ("other type", "SSE comes as 'text/plain', text/event-stream is expected", "path"),
    ],
)
async def test_an_answer_that_is_no_event_stream_is_found(deployments: Deployments, name: str, text: str, remedy: str) -> None:
    assert await wrong(deployments.url(name)) == [Finding("wrong", text, remedy)]


@pytest.mark.parametrize(
    ("why", "finding"),
    [
        (
            "closed with 1012: reconnect",
            Finding("ok", "WebSocket was told to reconnect: the gateway restarts, or the stream has grown old"),
        ),
        ("closed with 4408: stalled", Finding("wrong", "WebSocket was closed with 4408: stalled", "cut")),
    ],
)
async def test_a_stream_that_the_gateway_ends_is_not_taken_for_an_idle_one(why: str, finding: Finding) -> None:
    told: list[Finding] = []
    deployment = Deployment("http://localhost", told.append, token=None, channel="doctor")
    stream = Socket("http://localhost", "doctor", {})
    stream.ended, stream.why = stream.heard, why
    async with deployment.client:
        await delivery._wait(deployment, [stream], 1)

    assert told == [finding]
