"""The gateway inside somebody else's application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import fastapi
import httpx
import pytest
import uvicorn
import websockets
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway import Settings, create_app
from gateway.embedded import free_port
from tests.conftest import publisher
from tests.support.clients import TRANSPORTS, ids, take


@contextlib.asynccontextmanager
async def served(app: object) -> AsyncIterator[str]:
    """The application under uvicorn as it comes."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=2))  # type: ignore[arg-type]
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("host", ["fastapi", "starlette"])
async def test_a_host_application_runs_its_lifespan_and_mounts_it(redis_url: str, redis: Redis, host: str) -> None:
    gateway = create_app(Settings(redis_url=redis_url, auth="none"))
    if host == "fastapi":
        app: Starlette = fastapi.FastAPI(lifespan=gateway.run)
        app.mount("/notify", gateway)
    else:
        app = Starlette(lifespan=gateway.run, routes=[Mount("/notify", gateway)])
    async with served(app) as address:
        async with httpx.AsyncClient() as client:
            while (await client.get(f"{address}/notify/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        published = await publisher(redis)("jobs:1", "completed", final=True)
        for transport in TRANSPORTS.values():
            assert ids(await take(transport(f"{address}/notify", "channel=jobs:1"), 1)) == [published]


async def test_without_its_lifespan_it_says_so(redis_url: str) -> None:
    app = Starlette(routes=[Mount("/notify", create_app(Settings(redis_url=redis_url, auth="none")))])
    async with served(app) as address, httpx.AsyncClient() as client:
        answer = await client.get(f"{address}/notify/sse?channel=jobs:1")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{address.replace('http', 'ws')}/notify/ws?channel=jobs:1")

    assert answer.status_code == 503
    assert "lifespan" in answer.json()["detail"]
    assert refused.value.response.status_code == 503
