"""Entrance: whether the gateway can be reached, by whom, and with which token; one look for each."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.core.event import show
from gateway.doctor.site import Over, Site, milliseconds, problem_of

LOG_BYTES: Final = 1_048_576
LOG_SECONDS: Final = 1.0  # a proxy writes its log after it has answered


async def reach(site: Site) -> None:
    """Whether the gateway answers there at all."""
    began = time.monotonic()
    try:
        answer = await site.get("/livez")
    except httpx.HTTPError as error:
        name = "certificate" if "CERTIFICATE_VERIFY_FAILED" in str(error) else "unreachable"
        site.say("wrong", f"{site.base} cannot be reached: {type(error).__name__} {error}".rstrip(), name)
        raise Over from None
    if _is_ours(answer):
        site.say("well", f"the gateway answers, in {milliseconds(time.monotonic() - began)}")
        return
    found = await _find_elsewhere(site)
    text = f"{site.base}/livez is not the gateway's: status {answer.status_code}"
    if answer.status_code in (502, 503, 504):
        site.say("wrong", f"{text}: the proxy does not reach the gateway", "unreachable")
    else:
        site.say("wrong", f"{text}, {f'it is at {found}' if found else 'the path is wrong, or something else answers'}", "path")
    raise Over


async def _find_elsewhere(site: Site) -> str | None:
    """Where the gateway is, if it is at the host's root or at a usual path."""
    parts = urlsplit(site.base)
    for path in ("", "/notify", "/gateway", parts.path * 2):
        base = f"{parts.scheme}://{parts.netloc}{path}"
        with contextlib.suppress(httpx.HTTPError):
            if base != site.base and _is_ours(await site.get("/livez", base=base)):
                return base
    return None


async def look_at_tls(site: Site) -> None:
    """Whether tokens are hidden on the way, and many streams may share a connection."""
    parts = urlsplit(site.base)
    host = parts.hostname or ""
    if parts.scheme == "http":
        local = host in ("localhost", "127.0.0.1", "::1")
        site.say("note" if local else "wrong", "no TLS: tokens can be read on the way, and there is no HTTP/2", "" if local else "plain")
        return
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(host, parts.port or 443, ssl=context)
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    if chosen == "h2":
        site.say("well", "HTTP/2 is offered")
    else:
        site.say("note", "HTTP/2 is not offered: a browser opens 6 connections to one host, and each SSE stream takes one", "http2")


async def look_at_metrics(site: Site) -> None:
    """Whether everybody may read the figures."""
    answer = await site.get("/metrics")
    if answer.status_code != 200 or "gateway_" not in answer.text:
        site.say("well", "/metrics is not open to everybody")
    elif "server" in answer.headers or "via" in answer.headers:
        # Our own answers name no server: this one came through a proxy that did not say so to the gateway.
        site.say("wrong", "/metrics is open to everybody: the proxy sends no X-Forwarded-For", "metrics")


async def look_at_redis(site: Site) -> None:
    """Whether events get through Redis."""
    answer = await site.get("/readyz")
    if answer.status_code == 200:
        site.say("well", "events get through Redis")
        return
    detail = answer.json().get("detail") if "json" in answer.headers.get("content-type", "") else f"status {answer.status_code}"
    site.say("wrong", f"not ready: {show(detail, 200)}", "redis")
    raise Over


async def look_at_token(site: Site) -> None:
    """Whether the token reaches the gateway, and is good for the channel."""
    path = f"/poll?channel={site.channel}&wait=0&since=now"
    answer = await site.get(path, **site.headers)
    if answer.status_code == 200:
        site.say("well", f"channel {site.channel} may be followed")
        return
    detail = problem_of(answer)
    if answer.status_code == 401 and site.token is None:
        made = f"gateway token --sub doctor --subscribe {site.channel} --publish {site.channel}"
        site.say("wrong", f'it asks for a token: give one, with --token "$({made})"')
    elif answer.status_code == 401 and (await site.get(f"{path}&token={site.token}")).status_code == 200:
        site.say("wrong", "the token counts in the URL and not in the header: the proxy takes Authorization away", "authorization")
    elif answer.status_code == 403:
        site.say("wrong", f"the token is good, but not for this channel: {detail}; choose one with --channel")
    else:
        site.say("wrong", f"the token is refused with {answer.status_code}: {detail}", "token")
    raise Over


async def look_at_address(site: Site, logs: Sequence[Path]) -> None:
    """Whether a token in the URL shows up where others read it."""
    marker = f"doctor-{secrets.token_hex(8)}"
    answer = await site.get(f"/poll?channel={site.channel}&wait=0&token={marker}")
    if marker in answer.text or any(marker in value for value in answer.headers.values()):
        site.say("wrong", "a token in the URL comes back in the answer", "shown")
    for log in logs:
        shown = await _holds(log, marker.encode())
        site.say("wrong" if shown else "well", f"tokens in URLs are {'' if shown else 'not '}written to {log}", "shown" if shown else "")
    if not logs:
        site.say("note", "whether the proxies log tokens in URLs cannot be seen from here: give their logs with --log")


def _is_ours(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.text == '{"status":"alive"}'


async def _holds(log: Path, marker: bytes) -> bool:
    """Whether the end of a log holds it, at once or in a moment."""
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
