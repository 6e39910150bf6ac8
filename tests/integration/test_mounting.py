"""The gateway mounted in another ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import fastapi
import httpx
import pytest
import uvicorn
import websockets
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from gateway import Settings, create_app
from gateway.embedded import free_port
from tests.conftest import publisher
from tests.support.clients import TRANSPORTS, ids, take

PAGE = "https://app.example"


@contextlib.asynccontextmanager
async def served(app: object) -> AsyncIterator[str]:
    """Serve the application with plain uvicorn."""
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_hosts_middleware_may_add_headers_and_compress(redis_url: str, redis: Redis) -> None:
    gateway = create_app(Settings(redis_url=redis_url, auth="none", allowed_origins=(PAGE,)))
    app = fastapi.FastAPI(lifespan=gateway.run)
    app.mount("/notify", gateway)
    app.add_middleware(CORSMiddleware, allow_origins=[PAGE], allow_credentials=True)
    app.add_middleware(GZipMiddleware, minimum_size=1)

    @app.middleware("http")
    async def mark(request: fastapi.Request, call_next: RequestResponseEndpoint) -> fastapi.Response:
        response = await call_next(request)
        response.headers["X-Mark"] = "1"
        return response

    async with served(app) as address, httpx.AsyncClient(headers={"origin": PAGE}) as client:
        while (await client.get(f"{address}/notify/readyz")).status_code != 200:
            await asyncio.sleep(0.05)
        published = await publisher(redis)("jobs:1", "completed", final=True)
        for path in ("poll?channel=jobs:1", "sse?channel=jobs:1&until=final", "client.js", "livez") * 2:
            answer = await client.get(f"{address}/notify/{path}")
            assert answer.status_code == 200
            assert [answer.headers.get_list(name) for name in ("x-mark", "access-control-allow-origin")] == [["1"], [PAGE]]
        for transport in TRANSPORTS.values():
            assert ids(await take(transport(f"{address}/notify", "channel=jobs:1"), 1)) == [published]


async def test_a_host_that_does_not_run_the_lifespan_gets_an_error_that_says_so(redis_url: str) -> None:
    app = Starlette(routes=[Mount("/notify", create_app(Settings(redis_url=redis_url, auth="none")))])
    async with served(app) as address, httpx.AsyncClient() as client:
        answers = [await client.get(f"{address}/notify/{path}") for path in ("sse?channel=jobs:1", "readyz")]
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{address.replace('http', 'ws')}/notify/ws?channel=jobs:1")

    for answer in answers:
        assert answer.status_code == 503
        assert "lifespan" in answer.json()["detail"]
    assert refused.value.response.status_code == 503


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_host_may_cancel_the_call_at_any_moment_after_the_client_has_gone(redis_url: str, kind: str) -> None:
    """With a cancel scope of anyio's, as Starlette's test client does; anyio recognises its cancellations by their message."""
    gateway = create_app(Settings(redis_url=redis_url, auth="none"))
    path = "/ws" if kind == "websocket" else "/sse"
    request: dict[str, Any] = {"type": kind, "path": path, "method": "GET", "headers": [], "query_string": b"channel=jobs:1"}

    async def leave(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        scope.cancel()

    async with gateway.run(), asyncio.timeout(30):
        for turns in range(12):  # the first one comes before the feed has begun
            opened = asyncio.Event()
            received = iter([{"type": "websocket.connect"}] if kind == "websocket" else [])
            leaving: list[asyncio.Future[None]] = []

            async def receive(received: Any = received, opened: Any = opened, leaving: Any = leaving, turns: int = turns) -> Any:
                if (message := next(received, None)) is None:
                    await opened.wait()
                    message = {"type": f"{kind}.disconnect"}
                    leaving.append(asyncio.ensure_future(leave(turns)))
                return message

            async def send(message: Any, opened: Any = opened) -> None:
                if message.get("more_body") or message["type"] == "websocket.send":
                    opened.set()

            with anyio.CancelScope() as scope:
                await gateway(request, receive, send)
                await asyncio.Event().wait()

            assert scope.cancelled_caught
            await asyncio.gather(*leaving)
        assert gateway.services.connections.count == 0
