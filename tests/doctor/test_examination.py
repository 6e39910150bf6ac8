"""The doctor finds what is wrong, through a real nginx that was set up to be so, and nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.doctor import examination
from gateway.doctor.examination import examine
from gateway.doctor.finding import Finding
from tests.doctor.conftest import Deployments
from tests.support.tokens import make_token


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gets through does so at once, but on a machine that has much else to do."""
    monkeypatch.setattr(examination, "FIRST_SECONDS", 20.0)


async def wrong(url: str, **options: Any) -> list[Finding]:
    """What an examination finds wrong."""
    chosen: dict[str, Any] = {"token": None, "channel": "doctor", "patience": 0.3} | options
    return [finding async for finding in examine(url, **chosen) if finding.kind == "wrong"]


async def test_a_good_deployment_is_found_well_and_its_events_come_back(deployments: Deployments) -> None:
    found = [finding async for finding in examine(deployments.url("good"), token=None, channel="doctor:good", patience=0.3)]

    texts = "\n".join(finding.text for finding in found)
    assert [finding.text for finding in found if finding.kind == "wrong"] == []
    for part in ("over WebSocket, in", "over SSE, in", "/metrics is not open", "WebSocket is still open", "SSE is still open"):
        assert part in texts


async def test_a_proxy_that_holds_events_back_is_found(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "FIRST_SECONDS", 6.0)  # all of which it waits; a loaded machine opens the WebSocket within them
    (found,) = await wrong(deployments.url("buffering"))

    assert found.text.startswith("SSE is held back")
    assert "proxy_buffering off" in found.remedy["nginx"]


async def test_an_idle_timeout_is_found_and_measured(deployments: Deployments) -> None:
    found = await wrong(deployments.url("idle"), patience=15)

    assert [finding.text.split(" is cut after ")[0] for finding in found] == ["WebSocket", "SSE"]
    for finding in found:
        assert 0.5 < float(finding.text.split(" is cut after ")[1].split(" s")[0]) < 8
        assert "proxy_read_timeout" in finding.remedy["nginx"]


async def test_compressed_event_streams_are_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("gzip"))

    assert found.text.startswith("SSE is compressed ('gzip')")
    assert "gzip off" in found.remedy["nginx"]


async def test_a_proxy_that_passes_no_upgrade_on_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("no upgrade"))

    assert found.text == "WebSocket does not get through: answered 426"
    assert "Upgrade $http_upgrade" in found.remedy["nginx"]


async def test_a_wrong_path_is_found_and_the_right_one_too(deployments: Deployments) -> None:
    (kept,) = await wrong(f"{deployments.url('path kept')}/notify")
    (moved,) = await wrong(deployments.url("path moved"))
    right = await wrong(f"{deployments.url('path moved')}/notify")

    assert "status 404, the path is wrong" in kept.text
    assert moved.text.endswith(f"it is at {deployments.url('path moved')}/notify")
    assert "proxy_pass http://gateway/;" in moved.remedy["nginx"]
    assert right == []


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (None, "it asks for a token"),
        ("garbage", "the token is refused with 401"),
        (make_token(exp=time.time() - 60), "the token is refused with 401"),
        (make_token(key="x" * 32), "the token is refused with 401"),
        (make_token(subscribe=["jobs:*"]), "the token is good, but not for this channel"),
    ],
)
async def test_a_bad_token_is_found(deployments: Deployments, token: str | None, text: str) -> None:
    (found,) = await wrong(deployments.url("token"), token=token)

    assert found.text.startswith(text)
    assert token is None or token not in found.text


async def test_a_good_token_is_enough(deployments: Deployments) -> None:
    token = make_token(subscribe=["doctor:*"], publish=["doctor:*"])

    assert await wrong(deployments.url("token"), token=token, channel="doctor:7") == []


async def test_a_proxy_that_takes_the_token_away_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("no authorization"), token=make_token(subscribe=["doctor"]))

    assert "takes Authorization away" in found.text


async def test_redis_down_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("redis down"))

    assert found.text.startswith("not ready: 'no probe has come back from Redis")
    assert "gateway check" in found.remedy["gateway"]


async def test_a_gateway_that_is_not_there_is_found(deployments: Deployments) -> None:
    (behind,) = await wrong(deployments.url("nobody"))
    (at_all,) = await wrong("http://127.0.0.1:9")

    assert "status 502: the proxy does not reach the gateway" in behind.text
    assert "cannot be reached" in at_all.text


async def test_over_tls_it_tells_whether_browsers_get_http_2(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    (stranger,) = await wrong(f"https://localhost:{deployments.ports['tls']}")
    monkeypatch.setenv("SSL_CERT_FILE", str(deployments.folder / "certificate.pem"))
    found = {}
    for name in ("tls", "tls 1.1"):
        url = f"https://localhost:{deployments.ports[name]}"
        found[name] = [finding async for finding in examine(url, token=None, channel="doctor:tls", patience=0.3)]

    assert "ssl_certificate" in stranger.remedy["nginx"]
    assert not [finding.text for findings in found.values() for finding in findings if finding.kind == "wrong"]
    assert [finding.text for finding in found["tls"] if "HTTP/2" in finding.text] == ["HTTP/2 is offered"]
    (old,) = [finding for finding in found["tls 1.1"] if "HTTP/2" in finding.text]
    assert (old.kind, "http2" in old.remedy["nginx"]) == ("note", True)


async def test_figures_open_to_everybody_are_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("hidden"))

    assert found.text.startswith("/metrics is open to everybody")


async def test_tokens_in_a_log_are_found(deployments: Deployments) -> None:
    logs = [deployments.folder / "access.log", deployments.folder / "quiet.log"]
    (loud,) = await wrong(deployments.url("good"), logs=logs)
    quiet = await wrong(deployments.url("quiet"), logs=logs)

    assert loud.text == f"tokens in URLs are written to {logs[0]}"
    assert quiet == []
