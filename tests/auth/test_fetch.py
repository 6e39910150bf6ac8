"""Fetching over HTTP: which responses count as an answer."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.auth import fetch as module
from gateway.auth.fetch import MAX_ANSWER_BYTES, CannotSend, NoAnswer, fetch, http_client
from gateway.embedded import free_port
from tests.support.answering import Answering, answering
from tests.support.slowness import slowness
from tests.support.tls import tls_before


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as server:
        yield server


def port_of(server: Answering) -> int:
    return urlsplit(server.url).port or 0


async def test_the_status_and_the_body_are_the_answer(server: Answering) -> None:
    server.answer = (403, b"no")

    async with http_client(1) as client:
        assert await fetch(client, "POST", server.url, headers=[(b"cookie", b"a=\xe9")], content=b"{}") == (403, b"no")

    assert server.requests[0][0]["cookie"] == "a=é"


async def test_a_redirect_is_not_followed(server: Answering) -> None:
    server.answer, server.headers = (302, b""), {"location": server.url}

    async with http_client(1) as client:
        assert (await fetch(client, "GET", server.url))[0] == 302

    assert len(server.requests) == 1


async def test_a_response_that_is_too_long_too_slow_or_absent_is_no_answer(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_client(1) as client:
        server.answer = (200, b"x" * (MAX_ANSWER_BYTES + 1))
        with pytest.raises(NoAnswer, match="bytes"):
            await fetch(client, "GET", server.url)
        server.answer, server.delay = (200, b""), 20
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
        started = time.monotonic()
        with pytest.raises(NoAnswer, match=r"in 0\.1 s"):
            await fetch(client, "GET", server.url)
        assert time.monotonic() - started < 0.4 * slowness()
        monkeypatch.setattr(module, "ANSWER_SECONDS", 30)
        with pytest.raises(NoAnswer, match="ConnectError"):
            await fetch(client, "GET", f"http://127.0.0.1:{free_port()}/")


async def test_a_certificate_that_is_not_trusted_is_told(server: Answering, tmp_path: Path) -> None:
    async with tls_before(port_of(server), tmp_path) as port, http_client(1) as client:
        with pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(client, "GET", f"https://localhost:{port}/")


async def test_an_authority_of_ones_own_is_trusted_if_ssl_cert_file_names_it(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = (200, b"yes")
    async with tls_before(port_of(server), tmp_path) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        async with http_client(1) as client:
            assert await fetch(client, "GET", f"https://localhost:{port}/") == (200, b"yes")


async def test_compression_is_neither_requested_nor_decoded(server: Answering) -> None:
    server.answer, server.headers = (200, gzip.compress(bytes(100))), {"content-encoding": "gzip"}

    async with http_client(1) as client:
        with pytest.raises(NoAnswer, match="gzip"):
            await fetch(client, "GET", server.url)

    assert server.requests[0][0]["accept-encoding"] == "identity"


async def test_an_invalid_header_is_the_callers_fault(server: Answering) -> None:
    async with http_client(1) as client:
        with pytest.raises(CannotSend):
            await fetch(client, "GET", server.url, headers=[(b"cookie", b"a\nb")])
