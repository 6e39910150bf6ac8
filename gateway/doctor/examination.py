"""Examination: one look after the other at a deployment, each with what it found.

A look that makes the next ones pointless ends the examination.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from gateway.doctor import entrance
from gateway.doctor.delivery import look_at_delivery
from gateway.doctor.finding import Finding
from gateway.doctor.site import Over, Site


async def _look_at_everything(site: Site, patience: float, logs: Sequence[Path]) -> None:
    with suppress(Over):
        try:
            await entrance.reach(site)
            await entrance.look_at_tls(site)
            await entrance.look_at_metrics(site)
            await entrance.look_at_redis(site)
            await entrance.look_at_token(site)
            await entrance.look_at_address(site, logs)
            await look_at_delivery(site, patience)
        except (httpx.HTTPError, OSError) as error:
            site.say("wrong", f"a request was not answered: {type(error).__name__} {error}".rstrip(), "cut")


async def examine(url: str, *, token: str | None, channel: str, patience: float, logs: Sequence[Path] = ()) -> AsyncIterator[Finding]:
    """Examine a deployment; each finding as it is found.

    Args:
        url: where browsers find it, with its path if it has one
        token: for the gateway; ``None`` where it asks for none
        channel: to follow and to publish on
        patience: seconds for which a quiet stream is watched
        logs: of proxies, to look for tokens in
    """
    found: asyncio.Queue[Finding | None] = asyncio.Queue()
    site = Site(url, found.put_nowait, token=token, channel=channel)
    async with site.client:
        looking = asyncio.ensure_future(_look_at_everything(site, patience, logs))
        looking.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (finding := await found.get()) is not None:
                yield finding
            await looking
        finally:
            looking.cancel()
