"""The doctor finds why a deployment cannot be reached or used, behind a real nginx, and nothing else."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.doctor.examination import examine
from gateway.doctor.finding import Finding
from tests.doctor.conftest import Deployments, wrong
from tests.support.listening import refusing_port
from tests.support.servers import Server, running_gateway
from tests.support.tls import tls_before
from tests.support.tokens import make_token


async def test_a_wrong_path_is_found_and_the_right_one_too(deployments: Deployments) -> None:
    (kept,) = await wrong(f"{deployments.url('path kept')}/notify")
    (moved,) = await wrong(deployments.url("path moved"))
    right = await wrong(f"{deployments.url('path moved')}/notify")

    assert "status 404, the path is wrong" in kept.text
    assert moved.text.endswith(f"it is at {deployments.url('path moved')}/notify")
    assert "proxy_pass http://gateway/;" in moved.remedy["nginx"]
    assert right == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: None, "it asks for a token"),
        (lambda: "garbage", "the token is refused with 401"),
        (lambda: make_token(exp=time.time() - 60), "the token is refused with 401"),
        (lambda: make_token(key="x" * 32), "the token is refused with 401"),
        (lambda: make_token(subscribe=["jobs:*"]), "the token is good, but not for this channel"),
    ],
    ids=["none", "garbage", "expired", "of another key", "for other channels"],
)
async def test_a_bad_token_is_found(deployments: Deployments, make: Callable[[], str | None], text: str) -> None:
    token = make()  # not before, or it could have expired by now
    (found,) = await wrong(deployments.url("token"), token=token)

    assert found.text.startswith(text)
    assert token is None or token not in found.text


async def test_a_good_token_is_enough(deployments: Deployments) -> None:
    token = make_token(subscribe=["doctor:*"], publish=["doctor:*"])

    found = [finding async for finding in examine(deployments.url("token"), token=token, channel="doctor:7", patience=0.3)]

    assert [finding for finding in found if finding.kind == "wrong" or "no event could be published" in finding.text] == []


async def test_a_proxy_that_takes_the_token_away_is_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("no authorization"), token=make_token(subscribe=["doctor"]))

    assert "takes Authorization away" in found.text


async def test_a_gateway_that_is_not_there_is_found(deployments: Deployments) -> None:
    (behind,) = await wrong(deployments.url("nobody"))
    with refusing_port() as port:
        (at_all,) = await wrong(f"http://127.0.0.1:{port}")

    assert "status 502: the proxy does not reach the gateway" in behind.text
    assert "cannot be reached" in at_all.text


async def test_https_to_a_port_without_tls_is_found(deployments: Deployments) -> None:
    address = deployments.url("token").removeprefix("http://")
    (found,) = await wrong(f"https://{address}")

    assert found.text == f"https://{address} does not speak TLS: is it http://{address}?"
    assert found.remedy == {}


async def test_over_tls_it_reports_whether_browsers_get_http_2(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_an_authority_that_only_this_machine_trusts_is_no_mistake(deployments: Deployments, monkeypatch: pytest.MonkeyPatch) -> None:
    own = deployments.folder / "certificate.pem"
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda context, *_: context.load_verify_locations(own))

    assert await wrong(f"https://localhost:{deployments.ports['tls']}", channel="doctor:own") == []


async def test_metrics_open_to_everybody_are_found(deployments: Deployments) -> None:
    (found,) = await wrong(deployments.url("hidden"))

    assert found.text.startswith("/metrics is open to everybody")


async def test_metrics_open_to_everybody_are_found_behind_a_proxy_that_adds_no_header(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_before(server.port, tmp_path) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        (found,) = await wrong(f"https://localhost:{port}")
        here = await wrong(server.http)

    assert found.text.startswith("/metrics is open to everybody")
    assert here == []


async def test_a_proxy_that_speaks_the_proxy_protocol_is_found(shared_redis_url: str) -> None:
    async def announce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        back.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + await reader.read(65_536))
        writer.write(await there.read())
        back.close()
        writer.close()

    with running_gateway(shared_redis_url) as server:
        async with await asyncio.start_server(announce, "127.0.0.1", 0) as proxy:
            (found,) = await wrong(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")

    assert "not an HTTP request but the PROXY protocol" in found.text
    assert "send-proxy" in found.remedy["HAProxy"]


async def test_tokens_in_a_log_are_found(deployments: Deployments) -> None:
    logs = [deployments.folder / "access.log", deployments.folder / "quiet.log"]
    (loud,) = await wrong(deployments.url("good"), logs=logs)
    quiet = await wrong(deployments.url("quiet"), logs=logs)

    assert loud.text == f"tokens in URLs are written to {logs[0]}"
    assert quiet == []


async def test_without_logs_it_says_that_it_cannot_see_whether_they_hold_tokens(deployments: Deployments) -> None:
    found = [finding async for finding in examine(deployments.url("good"), token=None, channel="doctor", patience=0.3)]

    assert [finding.kind for finding in found if "give their logs" in finding.text] == ["note"]


async def test_a_name_that_nobody_knows_is_found_and_no_proxy_is_blamed() -> None:
    (found,) = await wrong("http://gateway.invalid")  # a name that never exists (RFC 6761, section 6.4)

    assert found == Finding("wrong", "http://gateway.invalid cannot be reached: no name server knows gateway.invalid", "")
