"""Authentication with tokens in every place of a request, over every transport, with direct writes and without."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import websockets

from tests.conftest import Publish
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token, part

ORIGIN = "https://app.example"
CHANNEL = "user:ann"
SECRETS: set[str] = {SECRET}  # must not be in any line of output


def token(*arguments: Any, **claims: Any) -> str:
    made = make_token(*arguments, **claims)
    SECRETS.update(piece for piece in made.split(".") if len(piece) > 40)
    return made


@pytest.fixture(scope="module", params=["direct", "plain"])
def server(request: pytest.FixtureRequest, shared_redis_url: str) -> Iterator[Server]:
    settings: dict[str, Any] = {"auth": "jwt", "jwt_secret": SECRET, "allowed_origins": ORIGIN, "log_level": "debug"}
    with running_gateway(shared_redis_url, plain=request.param == "plain", **settings) as server:
        yield server
        output = server.output()
        assert "Traceback" not in output, output
        assert not [secret for secret in SECRETS if secret in output], output


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.http, timeout=10) as client:
        yield client


async def closed(server: Server, query: str, **headers: str) -> tuple[int, str]:
    """The close code of a WebSocket that is refused. Its handshake succeeds, because a page cannot read a refused one."""
    async with websockets.connect(f"{server.ws}/ws?{query}", additional_headers=headers) as socket:
        with pytest.raises(websockets.ConnectionClosed) as error:
            await asyncio.wait_for(socket.recv(), 30)
    assert error.value.rcvd is not None
    return error.value.rcvd.code, error.value.rcvd.reason


async def ready(server: Server, query: str, **headers: str) -> dict[str, Any]:
    async with websockets.connect(f"{server.ws}/ws?{query}", additional_headers=headers) as socket:
        notice: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 30))
        return notice


async def stream_status(client: httpx.AsyncClient, query: str, **headers: str) -> int:
    async with client.stream("GET", f"/sse?{query}", headers=headers) as response:
        return response.status_code


# The ways to bring one


@pytest.mark.parametrize("way", ["header", "url", "cookie", "ticket"])
async def test_a_token_in_each_place_opens_each_transport(server: Server, client: httpx.AsyncClient, way: str) -> None:
    async def credential() -> tuple[str, dict[str, str]]:
        match way:
            case "header":
                return "", {"Authorization": f"bearer {token()}"}
            case "url":
                return f"&token={token()}", {}
            case "cookie":
                return "", {"Cookie": f'a=b; notify_token="{token()}"', "Origin": ORIGIN}
            case _:
                answer = (await client.post("/tickets", headers={"Authorization": f"Bearer {token()}"})).raise_for_status().json()
                SECRETS.add(answer["ticket"])
                assert answer["expires_in"] == 30
                return f"&ticket={answer['ticket']}", {}

    query, headers = await credential()
    assert list((await ready(server, f"channel={CHANNEL}{query}", **headers))["channels"]) == [CHANNEL]
    query, headers = await credential()
    assert await stream_status(client, f"channel={CHANNEL}{query}", **headers) == 200
    query, headers = await credential()
    assert (await client.get(f"/poll?channel={CHANNEL}&wait=0{query}", headers=headers)).status_code == 200


async def test_a_ticket_is_good_once(server: Server, client: httpx.AsyncClient) -> None:
    ticket = (await client.post("/tickets", headers={"Authorization": f"Bearer {token()}"})).json()["ticket"]
    SECRETS.add(ticket)

    assert (await ready(server, f"channel={CHANNEL}&ticket={ticket}"))["op"] == "ready"
    assert (await closed(server, f"channel={CHANNEL}&ticket={ticket}"))[0] == 4401
    assert (await client.get(f"/poll?channel={CHANNEL}&ticket={ticket}")).status_code == 401


async def test_of_a_hundred_racers_through_two_gateways_one_gets_in(
    server: Server, client: httpx.AsyncClient, shared_redis_url: str
) -> None:
    bearer = {"Authorization": f"Bearer {token()}"}
    with running_gateway(shared_redis_url, auth="jwt", jwt_secret=SECRET) as second:
        async with httpx.AsyncClient(base_url=second.http, timeout=10) as other:
            for _ in range(2):
                ticket = (await client.post("/tickets", headers=bearer)).json()["ticket"]
                SECRETS.add(ticket)
                racers = [(client, other)[i % 2].get(f"/poll?channel={CHANNEL}&wait=0&ticket={ticket}") for i in range(100)]
                statuses = Counter([answer.status_code for answer in await asyncio.gather(*racers)])

                assert statuses == {200: 1, 401: 99}


@pytest.mark.parametrize(
    ("headers", "query"),
    [({}, ""), ({"Cookie": "notify_token={token}", "Origin": ORIGIN}, ""), ({}, "?token={token}"), ({"Authorization": "Basic eDp5"}, "")],
)
async def test_a_ticket_is_given_for_a_bearer_token_only(client: httpx.AsyncClient, headers: dict[str, str], query: str) -> None:
    good = token()
    headers = {name: value.format(token=good) for name, value in headers.items()}

    answer = await client.post(f"/tickets{query.format(token=good)}", headers=headers)

    assert answer.status_code == 401


async def test_a_ticket_outlives_neither_its_token_nor_its_rights(server: Server, client: httpx.AsyncClient) -> None:
    exp = time.time() + 2
    bearer = {"Authorization": f"Bearer {token(subscribe=['jobs:1'], exp=exp)}"}
    first, second = [(await client.post("/tickets", headers=bearer)).json()["ticket"] for _ in range(2)]

    assert (await closed(server, f"channel=jobs:2&ticket={first}"))[0] == 4403
    async with websockets.connect(f"{server.ws}/ws?channel=jobs:1&ticket={second}") as socket:
        await socket.wait_closed()
    assert socket.close_code == 4401
    assert 0 <= time.time() - exp < 1


async def test_a_ticket_gets_no_ticket_whatever_else_is_said(client: httpx.AsyncClient) -> None:
    ticket = (await client.post("/tickets", headers={"Authorization": f"Bearer {token()}"})).json()["ticket"]
    SECRETS.add(ticket)

    answer = await client.post(f"/tickets?ticket={ticket}", headers={"Authorization": "Basic eDp5"})

    assert answer.status_code == 401


async def test_the_ticket_of_an_expired_token_is_good_for_nothing(client: httpx.AsyncClient) -> None:
    for seconds in (0.5, 5, 30):  # a busy machine needs more than the first, and then waits longer
        exp = time.time() + seconds
        bearer = {"Authorization": f"Bearer {token(publish=['jobs:*'], admin=True, exp=exp)}"}
        given = [await client.post("/tickets", headers=bearer) for _ in range(4)]
        if all(answer.status_code == 200 for answer in given):
            break
    tickets = [answer.json()["ticket"] for answer in given]
    SECRETS.update(tickets)
    await asyncio.sleep(max(0, exp - time.time()))

    answers = [
        await client.get(f"/poll?channel={CHANNEL}&since=0&wait=0&ticket={tickets[0]}"),
        await client.post(f"/publish?ticket={tickets[1]}", json={"channel": "jobs:1"}),
        await client.post(f"/revoke?ticket={tickets[2]}", json={"sub": "nobody"}),
        await client.get(f"/metrics?ticket={tickets[3]}", headers={"X-Forwarded-For": "192.0.2.1"}),
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 404]


async def test_an_explicit_credential_outranks_the_cookie(client: httpx.AsyncClient) -> None:
    cookie = {"Cookie": f"notify_token={token('bob')}", "Origin": "https://evil.example"}

    answer = await client.get(f"/poll?channel={CHANNEL}&wait=0&token={token('ann')}", headers=cookie)

    assert answer.status_code == 200


async def test_two_explicit_credentials_are_refused(server: Server, client: httpx.AsyncClient) -> None:
    one, other = token("ann"), token("bob")

    for query, headers in (
        (f"token={one}&token={other}", {}),
        (f"token={one}&ticket=x", {}),
        (f"token={one}", {"Authorization": f"Bearer {other}"}),
    ):
        answer = await client.get(f"/poll?channel={CHANNEL}&wait=0&{query}", headers=headers)
        assert answer.status_code == 400
        assert one not in answer.text
        assert (await closed(server, f"channel={CHANNEL}&{query}", **headers))[0] == 4400


# The ways to be refused


def bad_tokens() -> dict[str, str | None]:
    now = time.time()
    payload = {"sub": "ann", "exp": now + 60}
    return {
        "none": None,
        "empty": "",
        "garbage": "garbage",
        "alg none": f"{part({'alg': 'none'})}.{part(payload)}.",
        "another secret": make_token(key="x" * 32),
        "foreign kid": make_token(key="x" * 32, header={"kid": "another", "jku": "http://127.0.0.1:1/"}),
        "no exp": make_token(exp=...),
        "exp as text": make_token(exp=str(int(now) + 60)),
        "exp 1e308": make_token(exp=1e308),
        "expired": make_token(exp=now - 1),
        "nbf ahead": make_token(nbf=now + 60),
        "no sub": make_token(...),
        "subscribe a text": make_token(subscribe="*"),
        "64 kB": "x" * 60_000,  # more than a request's head may hold is refused before
    }


@pytest.mark.parametrize("case", bad_tokens())
async def test_a_bad_token_is_answered_401_or_closed_4401(server: Server, client: httpx.AsyncClient, case: str) -> None:
    bad = bad_tokens()[case]
    if bad is not None and len(bad) > 20:
        SECRETS.update(piece for piece in bad.split(".") if len(piece) > 40)
    query = f"channel={CHANNEL}&wait=0" + ("" if bad is None else f"&token={quote(bad)}")
    if case == "64 kB":
        answers = [
            await client.get(f"/poll?{query}"),
            await client.get(f"/poll?channel={CHANNEL}", headers={"Authorization": f"Bearer {bad}"}),
        ]
        assert {answer.status_code for answer in answers} <= {400, 401, 414, 431}
        return

    body = {"channel": "a"}
    headers = {"Authorization": f"Bearer {bad}"} if bad else {}
    answers = [
        await client.get(f"/poll?{query}"),
        await client.get(f"/sse?{query}"),
        await client.post("/publish", json=body, headers=headers),
    ]
    code, reason = await closed(server, query)

    challenges = [answer.headers["www-authenticate"] for answer in answers]
    assert challenges == ["Bearer" if one is None else 'Bearer error="invalid_token"' for one in (bad, bad, bad or None)]
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert bad is None or len(bad) < 10 or bad not in answer.text
    assert code == 4401
    assert reason
    assert (await client.get(f"/poll?channel={CHANNEL}&wait=0&token={token()}")).status_code == 200


async def test_a_token_that_is_no_utf8_is_not_quoted(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/poll?channel={CHANNEL}&token=abcdefghijk%ff")

    assert answer.status_code == 400
    assert "abcdefghijk" not in answer.text


@pytest.mark.parametrize("channel", ["user:bob", "user:ann2", "jobs:1"])
async def test_a_channel_that_is_not_allowed_is_403_whether_or_not_it_exists(
    server: Server, client: httpx.AsyncClient, publish: Publish, channel: str
) -> None:
    await publish("user:bob")
    query = f"channel={CHANNEL}&channel={channel}&token={token()}"

    poll = await client.get(f"/poll?{query}")

    assert (poll.status_code, poll.json()["channel"]) == (403, channel)
    assert await stream_status(client, query) == 403
    assert (await closed(server, query))[0] == 4403


async def test_publishing_needs_the_claim_for_each_channel(client: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {token(publish=['jobs:*'])}"}

    answer = await client.post("/publish", json=[{"channel": "jobs:9"}, {"channel": "user:ann"}], headers=headers)

    assert [min(item) for item in answer.json()] == ["ids", "channel"]
    assert answer.json()[1]["status"] == 403


async def test_without_a_publish_claim_the_refusal_comes_before_the_body(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /publish HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token()}\r\ncontent-length: 8000000\r\n\r\n"
    writer.write(head.encode())
    status = await asyncio.wait_for(reader.readline(), 30)
    writer.close()

    assert status.startswith(b"HTTP/1.1 403 ")


# Origins


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "https://evil.example",
        f"{ORIGIN}.evil.example",
        "https://xapp.example",
        "http://app.example",
        f"{ORIGIN}:444",
        ORIGIN.upper(),
    ],
)
async def test_a_cookie_counts_only_with_an_allowed_origin(server: Server, client: httpx.AsyncClient, origin: str | None) -> None:
    headers = {"Cookie": f"notify_token={token(publish=['*'])}"} | ({} if origin is None else {"Origin": origin})

    assert (await closed(server, f"channel={CHANNEL}", **headers))[0] == 4403
    assert await stream_status(client, f"channel={CHANNEL}", **headers) == 403
    for answer in (
        await client.get(f"/poll?channel={CHANNEL}&wait=0", headers=headers),
        await client.post("/publish", json={"channel": "jobs:1"}, headers=headers),
    ):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert "origin" in answer.headers["vary"].lower()


async def test_the_gateways_own_page_needs_no_origin_where_a_browser_sends_none(client: httpx.AsyncClient) -> None:
    headers = {"Cookie": f"notify_token={token()}", "Sec-Fetch-Site": "same-origin"}

    assert (await client.get(f"/poll?channel={CHANNEL}&wait=0", headers=headers)).status_code == 200
    assert (await client.get(f"/poll?channel={CHANNEL}&wait=0", headers=headers | {"Sec-Fetch-Site": "same-site"})).status_code == 403


async def test_an_allowed_page_may_read_the_answers_and_the_errors(client: httpx.AsyncClient) -> None:
    good = await client.get(f"/poll?channel={CHANNEL}&wait=0&token={token()}", headers={"Origin": ORIGIN})
    bad = await client.get(f"/poll?channel={CHANNEL}&token=x", headers={"Origin": ORIGIN})
    foreign = await client.get(f"/poll?channel={CHANNEL}&wait=0&token={token()}", headers={"Origin": "https://evil.example"})
    async with client.stream("GET", f"/sse?channel={CHANNEL}&token={token()}", headers={"Origin": ORIGIN}) as sse:
        pass

    assert [answer.status_code for answer in (good, bad, foreign, sse)] == [200, 401, 200, 200]
    for answer in (good, bad, sse):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in foreign.headers
    assert all(answer.headers["vary"] == "Origin" for answer in (good, bad, foreign, sse))


@pytest.mark.parametrize("path", ["/sse", "/poll", "/publish", "/tickets"])
async def test_a_preflight_is_answered_for_allowed_pages(client: httpx.AsyncClient, path: str) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    good = await client.options(path, headers=ask | {"Origin": ORIGIN})
    foreign = await client.options(path, headers=ask | {"Origin": "null"})

    assert (good.status_code, foreign.status_code) == (204, 403)
    assert good.headers["access-control-allow-origin"] == ORIGIN
    assert good.headers["access-control-allow-methods"] == ("POST" if path in ("/publish", "/tickets") else "GET")
    assert "authorization" in good.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in foreign.headers
    assert (await client.options(path)).status_code == 405


async def test_an_allowed_page_may_send_each_header_that_is_read_and_its_whole_trace(client: httpx.AsyncClient) -> None:
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type, traceparent"}

    answer = await client.options("/publish", headers=ask)

    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "last-event-id", "prefer", "traceparent", "tracestate"} <= set(allowed)


# What an admin sees


async def test_metrics_are_for_admins_where_a_proxy_stands_between(client: httpx.AsyncClient) -> None:
    through = {"X-Forwarded-For": "192.0.2.1"}

    answers = [
        await client.get("/metrics", headers=through),
        await client.get("/metrics", headers=through | {"Authorization": f"Bearer {token()}"}),
        await client.get("/metrics", headers=through | {"Authorization": f"Bearer {token(admin=True)}"}),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 200]
    assert not [secret for secret in SECRETS if secret in answers[2].text]
