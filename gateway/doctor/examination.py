"""Examination: one check after the other of a deployment. A finding that makes further checks pointless ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from gateway.doctor import entrance
from gateway.doctor.delivery import check_delivery
from gateway.doctor.deployment import Deployment, ExaminationOver
from gateway.doctor.finding import Finding


async def _check_everything(deployment: Deployment, patience: float, logs: Sequence[Path]) -> None:
    with suppress(ExaminationOver):
        try:
            await entrance.check_reachable(deployment)
            await entrance.check_tls(deployment)
            await entrance.check_metrics(deployment)
            await entrance.check_redis(deployment)
            await entrance.check_token(deployment)
            await entrance.check_leaks(deployment, logs)
            await check_delivery(deployment, patience)
        except (httpx.HTTPError, OSError) as error:
            deployment.report("wrong", f"a request was not answered: {type(error).__name__} {error}".rstrip(), "cut")


async def examine(url: str, *, token: str | None, channel: str, patience: float, logs: Sequence[Path] = ()) -> AsyncIterator[Finding]:
    """Examine a deployment, and yield each finding as soon as it is found.

    Args:
        url: where browsers find it, with its path if it has one
        token: for the gateway; ``None`` if it needs none
        channel: to follow and to publish on
        patience: seconds for which a quiet stream is watched
        logs: of proxies, to look for tokens in
    """
    found: asyncio.Queue[Finding | None] = asyncio.Queue()
    deployment = Deployment(url, found.put_nowait, token=token, channel=channel)
    async with deployment.client:
        looking = asyncio.ensure_future(_check_everything(deployment, patience, logs))
        looking.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (finding := await found.get()) is not None:
                yield finding
            await looking
        finally:
            looking.cancel()
