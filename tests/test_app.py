"""The application as a whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import Settings, create_app
from gateway.errors import SettingsError


def test_without_an_address_of_redis_there_is_no_application() -> None:
    with pytest.raises(SettingsError, match="GATEWAY_REDIS_URL"):
        create_app(Settings(auth="none"))


@pytest.mark.parametrize("origins", ["https://app.example", ("*",), ("https://app.example/path",)])
def test_origins_that_an_application_gives_are_checked(redis_url: str, origins: Any) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_ALLOWED_ORIGINS"):
        create_app(Settings(redis_url=redis_url, auth="none", allowed_origins=origins))


def test_origins_that_an_application_gives_may_be_written_in_any_way(redis_url: str) -> None:
    gateway = create_app(Settings(redis_url=redis_url, auth="none", allowed_origins=("https://App.example:443/",)))

    assert gateway.services.gate.origins.allow("https://app.example")


async def test_a_feed_that_dies_stops_the_process(redis_url: str) -> None:
    stopped = asyncio.Event()
    gateway = create_app(Settings(redis_url=redis_url, auth="none"), stop=stopped.set)
    async with gateway.run():
        # A bug in what every announcement goes through: the gravest there can be.
        gateway.services.feed.listener._take = None  # type: ignore[method-assign,assignment]
        async with asyncio.timeout(10):
            await stopped.wait()

        assert not gateway.services.running


async def test_it_can_be_stopped_at_any_moment(redis_url: str) -> None:
    # Among others while a command is on its way to Redis, where Python 3.11 may swallow the cancellation.
    for moment in range(40):
        gateway = create_app(Settings(redis_url=redis_url, auth="none"))
        running = gateway.run()
        await running.__aenter__()
        await asyncio.sleep(moment / 4_000)
        async with asyncio.timeout(5):
            await running.__aexit__(None, None, None)


@pytest.mark.parametrize("draining", [True, False])
async def test_a_lifespan_that_is_cut_short_ends_quietly_if_it_was_ending(redis_url: str, draining: bool) -> None:
    gateway = create_app(Settings(redis_url=redis_url, auth="none"))
    entered = asyncio.Event()

    async def live() -> None:
        async with gateway.run():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(live())
    await entered.wait()
    gateway.services.draining = draining
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled() is not draining
