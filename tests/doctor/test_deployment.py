"""How texts of a deployment are quoted in findings."""

from __future__ import annotations

import httpx
import pytest

from gateway.doctor.deployment import Deployment, milliseconds, problem_of
from gateway.doctor.finding import Finding


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (httpx.Response(403, json={"detail": "channel 'a': the token does not allow it"}), "\"channel 'a': the token does not allow it\""),
        (httpx.Response(502, text="<html>\x1b[31mBad"), "'Bad Gateway'"),
        (httpx.Response(500, json=["no", "problem"]), "'Internal Server Error'"),
        (httpx.Response(503, json={"message": "in a proxy's own words"}), "'Service Unavailable'"),
        (httpx.Response(500, json={"detail": "\x1b[31m\nred"}), r"'\x1b[31m\nred'"),
    ],
)
def test_a_refusal_is_quoted_and_escaped(answer: httpx.Response, text: str) -> None:
    assert problem_of(answer) == text


def test_a_time_is_told_in_milliseconds() -> None:
    assert [milliseconds(seconds) for seconds in (None, 0.0123, 2.5)] == ["no time", "12 ms", "2500 ms"]


async def test_a_finding_is_told_with_its_remedy() -> None:
    told: list[Finding] = []
    deployment = Deployment("http://localhost/notify/", told.append, token="secret", channel="doctor")
    async with deployment.client:
        deployment.report("wrong", "SSE is held back", "buffered")

    assert deployment.base == "http://localhost/notify"
    assert told == [Finding("wrong", "SSE is held back", "buffered")]
    assert "proxy_buffering off" in told[0].remedy["nginx"]
