"""The figures of a gateway, as Prometheus would read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

Figures = dict[str, float]


def parse(text: str) -> Figures:
    """Each sample by its name and label: ``gateway_connections{sse}``, and the sum of a name's samples by the name alone."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
                for value in sample.labels.values():
                    found[f"{sample.name}{{{value}}}"] = sample.value
    return found


async def figures(address: str) -> Figures:
    """What ``/metrics`` tells."""
    return await figures_when(address, lambda _: True)


async def figures_when(address: str, fits: Callable[[Figures], bool], seconds: float = 15.0) -> Figures:
    """The figures, as soon as they are as they should be, or when the time is over."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(verify=False) as client:  # certificates take time to load, and there are none
        while True:
            found = parse((await client.get(f"{address}/metrics")).raise_for_status().text)
            if fits(found) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.03)
