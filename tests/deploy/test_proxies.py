"""The samples for nginx, Caddy and HAProxy, run in front of two gateways."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.doctor.examination import examine
from tests.conftest import Publish
from tests.support.caddy import running_caddy
from tests.support.clients import TRANSPORTS, Message, ids, take
from tests.support.haproxy import running_haproxy
from tests.support.nginx import free_ports, running_nginx
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

MOST_OF_ONE = 25  # streams and waiting polls that one subject may have in each gateway
DEPLOY = Path(__file__).parent.parent.parent / "deploy"


def nginx(folder: Path, port: int, gateways: list[Server]) -> AbstractContextManager[None]:
    """Run nginx with the sample, its addresses replaced by local ones."""
    text = with_gateways(DEPLOY / "nginx.conf", gateways)
    text = replaced(text, "listen 80;", f"listen 127.0.0.1:{port};")
    return running_nginx(folder, replaced(text, "/dev/stdout", str(folder / "log")), port)


def caddy(folder: Path, port: int, gateways: list[Server]) -> AbstractContextManager[None]:
    """Run Caddy with the sample, its addresses replaced by local ones, without TLS."""
    text = replaced(with_gateways(DEPLOY / "Caddyfile", gateways), "example.com {", f"http://127.0.0.1:{port} {{")
    return running_caddy(folder, text, port)


def haproxy(folder: Path, port: int, gateways: list[Server]) -> AbstractContextManager[None]:
    """Run HAProxy with the sample, its addresses replaced by local ones."""
    text = replaced(with_gateways(DEPLOY / "haproxy.cfg", gateways), "bind :80 ", f"bind 127.0.0.1:{port} ")
    return running_haproxy(folder, text, port)


PROXIES = {"nginx": nginx, "Caddy": caddy, "HAProxy": haproxy}


def with_gateways(sample: Path, gateways: list[Server]) -> str:
    text = sample.read_text()
    for i, gateway in enumerate(gateways, 1):
        assert f"gateway-{i}:8000" in text
        text = text.replace(f"gateway-{i}:8000", f"127.0.0.1:{gateway.port}")
    return text


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


class Site:
    """A proxy, and the gateways behind it."""

    def __init__(self, name: str, url: str, gateways: list[Server], log: Path) -> None:
        self.name = name
        self.url = url
        self.gateways = gateways
        self.log = log


@pytest.fixture(scope="module", params=PROXIES)
def site(request: pytest.FixtureRequest, shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("proxy")
    settings: dict[str, Any] = {
        "auth": "jwt",
        "jwt_secret": SECRET,
        "trusted_proxies": "127.0.0.1",
        "max_connections_per_sub": str(MOST_OF_ONE),
    }
    with ExitStack() as stack:
        gateways = [stack.enter_context(running_gateway(shared_redis_url, **settings)) for _ in range(2)]
        (port,) = free_ports(1)
        with PROXIES[request.param](folder, port, gateways):
            yield Site(request.param, f"http://127.0.0.1:{port}", gateways, folder / "log")


@pytest.mark.parametrize("name", PROXIES)
def test_while_no_gateway_answers_an_event_source_is_told_to_come_back(name: str, redis_url: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with ExitStack() as proxy:
        with running_gateway(redis_url) as first, running_gateway(redis_url) as second:
            proxy.enter_context(PROXIES[name](tmp_path, port, [first, second]))
        url = f"http://127.0.0.1:{port}/sse?channel=jobs:1"
        source = httpx.get(url, headers={"accept": "text/event-stream"}, timeout=20)
        others = [httpx.get(url, timeout=20), httpx.get(url.replace("sse", "poll"), timeout=20)]

    assert (source.status_code, source.headers["content-type"], source.text) == (200, "text/event-stream", "retry: 3000\n\n")
    assert {answer.status_code for answer in others} <= {502, 503}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport_gets_through_and_no_token_into_the_log(site: Site, publish: Publish, transport: str) -> None:
    channel, token = f"proxy:{site.name}:{transport}", make_token(subscribe=["proxy:*"])
    first = await publish(channel, "started")
    stream = TRANSPORTS[transport](site.url, f"channel={channel}&since=0&token={token}")
    if transport == "poll":
        received = await take(stream, 1)
        second = first
    else:
        received = await take_until_ready_and(stream, publish, channel)
        second = received[-1]["id"]

    assert ids(received) == list(dict.fromkeys([first, second]))
    assert token not in site.log.read_text()


async def take_until_ready_and(stream: AsyncGenerator[Message, None], publish: Publish, channel: str) -> list[Message]:
    """The messages up to the ready notice, and an event published after that."""
    received = []
    async for message in stream:
        received.append(message)
        if message.get("op") == "ready":
            break
    await publish(channel, "completed", final=True)
    received.append(await anext(stream))
    await stream.aclose()
    return received


async def test_the_doctor_finds_nothing_wrong(site: Site) -> None:
    token = make_token(subscribe=["proxy:*"], publish=["proxy:*"])
    found = [finding async for finding in examine(site.url, token=token, channel="proxy:doctor", patience=0.3, logs=[site.log])]

    assert [finding.text for finding in found if finding.kind == "wrong"] == []


async def test_large_requests_get_through_and_metrics_do_not(site: Site) -> None:
    token = make_token(subscribe=["proxy:*"], publish=["proxy:*"])
    async with httpx.AsyncClient(base_url=site.url, headers={"authorization": f"Bearer {token}"}, timeout=20) as client:
        body = [{"channel": "proxy:large", "data": "x" * 60_000} for _ in range(60)]
        published = await client.post("/publish", content=json.dumps(body), headers={"content-type": "application/json"})
        names = "&".join(f"channel=proxy:{'y' * 110}{i:03},1795215462557031" for i in range(128))
        followed = await client.get(f"/poll?wait=0&{names}")
        metrics = await client.get("/metrics")

    assert published.status_code == 200
    assert len(published.json()) == 60
    assert followed.status_code == 200, followed.text
    assert metrics.status_code == 404


async def test_a_client_beyond_its_limit_does_not_make_a_gateway_unavailable_to_others(site: Site) -> None:
    """A gateway refuses it with 503, as it does when it shuts down; a proxy that takes it for dead would refuse all clients."""
    greedy, modest = (make_token(sub=sub, subscribe=["proxy:*"]) for sub in ("greedy", "modest"))
    async with httpx.AsyncClient(base_url=site.url, timeout=20) as client:

        async def ask(token: str, wait: float) -> int:
            return (await client.get(f"/poll?wait={wait}&since=now&channel=proxy:much&token={token}")).status_code

        waiting = [asyncio.create_task(ask(greedy, 2)) for _ in range(3 * MOST_OF_ONE)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)  # the refused ones end first
        others = [await ask(modest, 0) for _ in range(10)]
        refused = await asyncio.gather(*waiting)

    assert set(others) == {200}
    assert 503 in refused


async def test_while_one_gateway_drains_the_other_serves(site: Site) -> None:
    draining, token = site.gateways[1], make_token(subscribe=["proxy:*"])
    query = f"channel=proxy:drain&token={token}"
    held = [TRANSPORTS["ws"](f"http://127.0.0.1:{draining.port}", query) for _ in range(2)]
    for stream in held:
        await anext(stream)
    draining.process.send_signal(signal.SIGTERM)
    async with httpx.AsyncClient(base_url=site.url, timeout=20) as client, asyncio.timeout(30):
        while True:
            answers = {answer.status_code for answer in await asyncio.gather(*(client.get(f"/poll?wait=0&{query}") for _ in range(20)))}
            if answers == {200} or site.name != "Caddy":
                break
    for stream in held:
        await stream.aclose()

    assert answers == {200}, "at once with those that ask the next one; with Caddy as soon as it has looked"
