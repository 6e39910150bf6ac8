"""A gateway's metrics, read as Prometheus would read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

Figures = dict[str, float]


def parse(text: str) -> Figures:
    """Each sample by its name and the value of a label, such as ``gateway_connections{sse}``; by its name alone the sum of all."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
                for value in sample.labels.values():
                    found[f"{sample.name}{{{value}}}"] = sample.value
    return found


def figures_now(address: str) -> Figures:
    """As ``figures``, for tests without an event loop."""
    return parse(httpx.get(f"{address}/metrics").raise_for_status().text)


async def figures(address: str) -> Figures:
    """The metrics that ``/metrics`` shows now."""
    return await figures_when(address, lambda _: True)


async def figures_when(address: str, fits: Callable[[Figures], bool], seconds: float = 30.0) -> Figures:
    """The metrics as soon as they fit, or those at the end of the time if they never do."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(verify=False) as client:  # plain HTTP; loading certificates would take time
        while True:
            found = parse((await client.get(f"{address}/metrics")).raise_for_status().text)
            if fits(found) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.03)


async def until_live(address: str, clients: int) -> None:
    """Wait until this many clients are connected and none of them is behind, so that what is published next is pushed to all of them."""
    found = await figures_when(address, lambda now: now["gateway_connections"] == clients and now["gateway_behind"] == 0)
    assert (found["gateway_connections"], found["gateway_behind"]) == (clients, 0)
