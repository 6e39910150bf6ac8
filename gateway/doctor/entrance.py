"""Entrance: checks whether the gateway can be reached, by whom, and with which token."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.doctor.deployment import Deployment, ExaminationOver, milliseconds, problem_of
from gateway.doctor.streams import trusting_context

NO_TLS: Final = ("WRONG_VERSION_NUMBER", "record layer failure")  # OpenSSL's words for an answer that is not TLS, before 3.2 and since
LOG_BYTES: Final = 1_048_576
LOG_SECONDS: Final = 1.0  # a proxy writes its log after it has answered


async def check_reachable(deployment: Deployment) -> None:
    """Check whether the gateway answers at this address at all."""
    began = time.monotonic()
    try:
        answer = await deployment.get("/livez")
    except httpx.HTTPError as error:
        if any(words in str(error) for words in NO_TLS):
            deployment.report("wrong", f"{deployment.base} does not speak TLS: is it http://{urlsplit(deployment.base).netloc}?")
        elif _is_unknown_name(error):
            deployment.report("wrong", f"{deployment.base} cannot be reached: no name server knows {urlsplit(deployment.base).hostname}")
        else:
            name = "certificate" if "CERTIFICATE_VERIFY_FAILED" in str(error) else "unreachable"
            deployment.report("wrong", f"{deployment.base} cannot be reached: {type(error).__name__} {error}".rstrip(), name)
        raise ExaminationOver from None
    if _is_ours(answer):
        deployment.report("ok", f"the gateway answers, in {milliseconds(time.monotonic() - began)}")
        return
    found = await _find_elsewhere(deployment)
    text = f"{deployment.base}/livez is not the gateway's: status {answer.status_code}"
    if answer.status_code in (502, 503, 504):
        deployment.report("wrong", f"{text}: the proxy does not reach the gateway", "unreachable")
    elif answer.status_code == 400 and "problem+json" in answer.headers.get("content-type", ""):
        detail = problem_of(answer)
        name = "announced" if "PROXY protocol" in detail else ""
        deployment.report("wrong", f"{deployment.base}/livez is refused by the gateway: {detail}", name)
    else:
        deployment.report("wrong", f"{text}, {f'it is at {found}' if found else 'the path is wrong, or something else answers'}", "path")
    raise ExaminationOver


def _is_unknown_name(error: BaseException | None) -> bool:
    """Whether a host's name that could not be looked up has led to this error."""
    return error is not None and (isinstance(error, socket.gaierror) or _is_unknown_name(error.__cause__ or error.__context__))


async def _find_elsewhere(deployment: Deployment) -> str | None:
    """Where the gateway is, if it is at the root of the host or at a usual path."""
    parts = urlsplit(deployment.base)
    for path in ("", "/notify", "/gateway", parts.path * 2):
        base = f"{parts.scheme}://{parts.netloc}{path}"
        with contextlib.suppress(httpx.HTTPError):
            if base != deployment.base and _is_ours(await deployment.get("/livez", base=base)):
                return base
    return None


async def check_tls(deployment: Deployment) -> None:
    """Check whether the connection is encrypted, and whether many streams can share one (HTTP/2)."""
    parts = urlsplit(deployment.base)
    host = parts.hostname or ""
    if parts.scheme == "http":
        local = host in ("localhost", "127.0.0.1", "::1")
        deployment.report(
            "note" if local else "wrong", "no TLS: tokens can be read on the way, and there is no HTTP/2", "" if local else "plain"
        )
        return
    context = trusting_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(host, parts.port or 443, ssl=context)
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    if chosen == "h2":
        deployment.report("ok", "HTTP/2 is offered")
    else:
        deployment.report(
            "note", "HTTP/2 is not offered: a browser opens 6 connections to one host, and each SSE stream takes one", "http2"
        )


async def check_metrics(deployment: Deployment) -> None:
    """Check that not everybody can read the metrics."""
    answer = await deployment.get("/metrics")
    if answer.status_code != 200 or "gateway_" not in answer.text:
        deployment.report("ok", "/metrics is not open to everybody")
    elif _came_through_a_proxy(answer):
        deployment.report("wrong", "/metrics is open to everybody: the proxy sends no X-Forwarded-For", "metrics")


def _came_through_a_proxy(metrics: httpx.Response) -> bool:
    """Whether the metrics came through a proxy. Without a token the gateway shows them only to its own machine, and without TLS."""
    # The gateway's own answers have no Server header, but those of an application that it is mounted in have uvicorn's.
    server = metrics.headers.get("server", "uvicorn")
    if server != "uvicorn" or "via" in metrics.headers or metrics.url.scheme == "https":
        return True
    address, *_ = metrics.extensions["network_stream"].get_extra_info("server_addr")
    return not ipaddress.ip_address(address).is_loopback


async def check_redis(deployment: Deployment) -> None:
    """Check whether events get through Redis."""
    answer = await deployment.get("/readyz")
    if answer.status_code == 200:
        deployment.report("ok", "events get through Redis")
        return
    deployment.report("wrong", f"not ready: {answer.status_code} {problem_of(answer)}", "redis")
    raise ExaminationOver


async def check_token(deployment: Deployment) -> None:
    """Check whether the token reaches the gateway, and is valid for the channel."""
    path = f"/poll?channel={deployment.channel}&wait=0&since=now"
    answer = await deployment.get(path, **deployment.headers)
    if answer.status_code == 200:
        deployment.report("ok", f"channel {deployment.channel} may be followed")
        return
    detail = problem_of(answer)
    if answer.status_code == 401 and deployment.token is None:
        made = f"gateway token --sub doctor --subscribe {deployment.channel} --publish {deployment.channel}"
        deployment.report("wrong", f'it asks for a token: give one, with --token "$({made})"')
    elif answer.status_code == 401 and (await deployment.get(f"{path}&token={deployment.token}")).status_code == 200:
        deployment.report("wrong", "the token counts in the URL and not in the header: the proxy takes Authorization away", "authorization")
    elif answer.status_code == 403:
        deployment.report("wrong", f"the token is good, but not for this channel: {detail}; choose one with --channel")
    else:
        deployment.report("wrong", f"the token is refused with {answer.status_code}: {detail}", "token")
    raise ExaminationOver


async def check_leaks(deployment: Deployment, logs: Sequence[Path]) -> None:
    """Check whether a token in the URL shows up where others can read it."""
    marker = f"doctor-{secrets.token_hex(8)}"
    answer = await deployment.get(f"/poll?channel={deployment.channel}&wait=0&token={marker}")
    if marker in answer.text or any(marker in value for value in answer.headers.values()):
        deployment.report("wrong", "a token in the URL comes back in the answer", "shown")
    for log in logs:
        shown = await _holds(log, marker.encode())
        deployment.report(
            "wrong" if shown else "ok", f"tokens in URLs are {'' if shown else 'not '}written to {log}", "shown" if shown else ""
        )
    if not logs:
        deployment.report("note", "whether the proxies log tokens in URLs cannot be seen from here: give their logs with --log")


def _is_ours(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.text == '{"status":"alive"}'


async def _holds(log: Path, marker: bytes) -> bool:
    """Whether the end of a log holds the marker, or does within ``LOG_SECONDS``."""
    deadline = time.monotonic() + LOG_SECONDS
    while True:
        if marker in _end_of(log):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)


def _end_of(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        return file.read()
