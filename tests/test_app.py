"""The application: its settings, its lifespan, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway import Settings, create_app
from gateway.errors import SettingsError


def test_an_application_needs_the_address_of_redis() -> None:
    with pytest.raises(SettingsError, match="GATEWAY_REDIS_URL"):
        create_app(Settings(auth="none"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis_url", "localhost:6379"),
        ("redis_url", "redis://localhost?timeout_of_somebody_else=1"),
        ("prefix", "a b"),
        ("auth", "nobody"),
        ("jwt_secret", ""),
        ("jwt_secret", "short"),
        ("jwt_public_key", "no PEM"),
        ("jwks_url", "ftp://keys.example"),
        ("authorize_url", "app.example/authorize"),
    ],
)
def test_texts_that_an_application_gives_are_checked(name: str, text: str) -> None:
    given: dict[str, Any] = {"redis_url": "redis://localhost:6379", name: text}

    with pytest.raises(SettingsError, match=f"^GATEWAY_{name.upper()}: .* is wrong: .* is expected"):
        create_app(Settings(**given))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("max_channels", "12", "'12'"),
        ("max_connections", None, "None"),
        ("heartbeat_seconds", "20", "'20'"),
        ("prefix", b"notify", "b'notify'"),
        ("auth", None, "None"),
        ("redis_url", 6379, "the value"),
        ("jwt_secret", b"s" * 32, "the value"),
        ("jwt_issuer", 7, "7"),
    ],
)
def test_values_of_another_type_that_an_application_gives_are_refused(name: str, value: Any, shown: str) -> None:
    given: dict[str, Any] = {"redis_url": "redis://localhost:6379", "jwt_secret": "s" * 32, name: value}

    with pytest.raises(SettingsError, match=f"^GATEWAY_{name.upper()}: {shown} is wrong: .* is expected$"):
        create_app(Settings(**given))


@pytest.mark.parametrize("origins", [None, "https://app.example", ("*",), ("https://app.example/path",)])
def test_origins_that_an_application_gives_are_checked(redis_url: str, origins: Any) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_ALLOWED_ORIGINS"):
        create_app(Settings(redis_url=redis_url, auth="none", allowed_origins=origins))


def test_origins_that_an_application_gives_are_normalised(redis_url: str) -> None:
    gateway = create_app(Settings(redis_url=redis_url, auth="none", allowed_origins=("https://App.example:443/",)))

    assert gateway.services.gate.origins.allow("https://app.example")


async def test_a_feed_that_dies_stops_the_process(redis_url: str) -> None:
    stopped = asyncio.Event()
    gateway = create_app(Settings(redis_url=redis_url, auth="none"), stop=stopped.set)
    async with gateway.run():
        # A bug in the code that every announcement passes: the worst there can be.
        gateway.services.feed.listener._take = None  # type: ignore[method-assign,assignment]
        async with asyncio.timeout(30):
            await stopped.wait()

        assert not gateway.services.running


# What cannot be missing without harm that nobody would see: among others, nobody would lose access any more.
@pytest.mark.parametrize("name", ["Access._expire", "Access._follow", "Access.run", "Connections._watch", "Connections._beat", "Feed.run"])
async def test_a_background_task_that_was_cancelled_stops_the_process(redis_url: str, name: str) -> None:
    stopped = asyncio.Event()
    gateway = create_app(Settings(redis_url=redis_url, auth="none"), stop=stopped.set)
    async with gateway.run(), asyncio.timeout(30):
        while not (found := [task for task in asyncio.all_tasks() if task.get_name() == name]):
            await asyncio.sleep(0)
        found[0].cancel()
        await stopped.wait()


def test_it_runs_on_one_event_loop_after_the_other(redis_url: str) -> None:
    """As in the tests of an application that mounts it, where each test client runs an event loop of its own."""
    stopped: list[bool] = []
    gateway = create_app(Settings(redis_url=redis_url, auth="none"), stop=lambda: stopped.append(True))

    async def live() -> list[int]:
        transport = httpx.ASGITransport(gateway)
        async with gateway.run(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, asyncio.timeout(30):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)
            published = await client.post("/publish", json={"channel": "jobs:loop"})
            polled = await client.get("/poll?channel=jobs:loop&wait=0")
            assert [event["id"] for event in polled.json()["events"]] == [published.json()["ids"]["jobs:loop"]]
            return [published.status_code, polled.status_code]

    assert [asyncio.run(live()) for _ in range(3)] == [[200, 200]] * 3
    assert stopped == []


async def test_it_can_be_stopped_at_any_moment(redis_url: str) -> None:
    # Among other moments while a command is sent to Redis, when Python 3.11 may swallow the cancellation.
    for moment in range(40):
        gateway = create_app(Settings(redis_url=redis_url, auth="none"))
        running = gateway.run()
        await running.__aenter__()
        await asyncio.sleep(moment / 4_000)
        async with asyncio.timeout(30):
            await running.__aexit__(None, None, None)


@pytest.mark.parametrize("draining", [True, False])
async def test_a_lifespan_that_is_cancelled_ends_quietly_if_it_was_draining(redis_url: str, draining: bool) -> None:
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
