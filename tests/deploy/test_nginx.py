"""The nginx sample, run for real before two gateways."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.doctor.examination import examine
from tests.conftest import Publish
from tests.support.clients import TRANSPORTS, Message, ids, take
from tests.support.nginx import free_ports, running_nginx
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

SAMPLE = Path(__file__).parent.parent.parent / "deploy" / "nginx.conf"


def adapted(port: int, gateways: list[Server], log: Path) -> str:
    """The sample, with addresses of this machine."""
    text = SAMPLE.read_text()
    for i, gateway in enumerate(gateways, 1):
        text = replaced(text, f"server gateway-{i}:8000;", f"server 127.0.0.1:{gateway.port};")
    text = replaced(text, "listen 80;", f"listen 127.0.0.1:{port};")
    return replaced(text, "/dev/stdout", str(log))


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


class Site:
    """nginx, and the gateways behind it."""

    def __init__(self, url: str, gateways: list[Server], log: Path) -> None:
        self.url = url
        self.gateways = gateways
        self.log = log


@pytest.fixture(scope="module")
def site(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET, trusted_proxies="127.0.0.1"))
            for _ in range(2)
        ]
        (port,) = free_ports(1)
        with running_nginx(folder, adapted(port, gateways, folder / "sample.log"), port):
            yield Site(f"http://127.0.0.1:{port}", gateways, folder / "sample.log")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport_gets_through_and_no_token_into_the_log(site: Site, publish: Publish, transport: str) -> None:
    channel, token = f"nginx:{transport}", make_token(subscribe=["nginx:*"])
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
    """What comes up to ready, and an event published then."""
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
    token = make_token(subscribe=["nginx:*"], publish=["nginx:*"])
    found = [finding async for finding in examine(site.url, token=token, channel="nginx:doctor", patience=0.3, logs=[site.log])]

    assert [finding.text for finding in found if finding.kind == "wrong"] == []


async def test_large_requests_get_through_and_figures_do_not(site: Site) -> None:
    token = make_token(subscribe=["nginx:*"], publish=["nginx:*"])
    async with httpx.AsyncClient(base_url=site.url, headers={"authorization": f"Bearer {token}"}, timeout=20) as client:
        body = [{"channel": "nginx:large", "data": "x" * 60_000} for _ in range(60)]
        published = await client.post("/publish", content=json.dumps(body), headers={"content-type": "application/json"})
        names = "&".join(f"channel=nginx:{'y' * 110}{i:03},1795215462557031" for i in range(128))
        followed = await client.get(f"/poll?wait=0&{names}")
        metrics = await client.get("/metrics")

    assert published.status_code == 200
    assert len(published.json()) == 60
    assert followed.status_code == 200, followed.text
    assert metrics.status_code == 404


async def test_while_one_gateway_drains_the_other_serves(site: Site) -> None:
    draining, token = site.gateways[1], make_token(subscribe=["nginx:*"])
    query = f"channel=nginx:drain&token={token}"
    held = [TRANSPORTS["ws"](f"http://127.0.0.1:{draining.port}", query) for _ in range(2)]
    for stream in held:
        await anext(stream)
    draining.process.send_signal(signal.SIGTERM)
    async with httpx.AsyncClient(base_url=site.url) as client:
        answers = await asyncio.gather(*(client.get(f"/poll?wait=0&{query}") for _ in range(20)))
    for stream in held:
        await stream.aclose()

    assert {answer.status_code for answer in answers} == {200}
