"""Access of a connected client ends: its token expires, is narrowed or revoked. And access without tokens."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import websockets
from httpx_sse import aconnect_sse
from redis.asyncio import Redis

from tests.conftest import Publish
from tests.support.answering import Answering, answering
from tests.support.servers import Server, running_gateway
from tests.support.tokens import SECRET, make_token

ORIGIN = "https://app.example"
SECRETS: set[str] = {SECRET}


def token(*arguments: Any, **claims: Any) -> str:
    made = make_token(*arguments, **claims)
    SECRETS.update(made.split(".")[1:])
    return made


@pytest.fixture(scope="module", params=["direct", "plain"])
def servers(request: pytest.FixtureRequest, shared_redis_url: str) -> Iterator[list[Server]]:
    """Two gateways on one Redis."""
    settings: dict[str, Any] = {"auth": "jwt", "jwt_secret": SECRET, "allowed_origins": ORIGIN, "log_level": "debug"}
    plain = request.param == "plain"
    with (
        running_gateway(shared_redis_url, plain=plain, **settings) as one,
        running_gateway(shared_redis_url, plain=plain, **settings) as other,
    ):
        yield [one, other]
        for server in (one, other):
            output = server.output()
            assert "Traceback" not in output, output
            assert not [secret for secret in SECRETS if secret in output], output


@pytest.fixture
def ann() -> str:
    """A subject for one test alone, because a revocation stays."""
    return f"ann-{uuid.uuid4().hex}"


@pytest.fixture
def server(servers: list[Server]) -> Server:
    return servers[0]


async def receive(socket: Any, seconds: float = 30) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), seconds))
    return message


@asynccontextmanager
async def connected(server: Server, token: str, *channels: str) -> AsyncIterator[Any]:
    query = "".join(f"channel={channel}&" for channel in channels)
    async with websockets.connect(f"{server.ws}/ws?{query}since=now&token={token}") as socket:
        if channels:
            assert (await receive(socket))["op"] == "ready"
        yield socket


async def bye(server: Server, token: str, channel: str, started: asyncio.Event) -> dict[str, Any]:
    """The last message of an event stream before it ends."""
    async with (
        httpx.AsyncClient() as client,
        aconnect_sse(client, "GET", f"{server.http}/sse?channel={channel}&token={token}") as source,
    ):
        last: dict[str, Any] = {}
        async for event in source.aiter_sse():
            started.set()
            last = {"event": event.event} | event.json()
        return last


async def poll(server: Server, token: str, channel: str) -> int:
    async with httpx.AsyncClient(timeout=30) as client:
        return (await client.get(f"{server.http}/poll?channel={channel}&wait=20&token={token}")).status_code


Send = Callable[..., Awaitable[None]]


def say(socket: Any) -> Send:
    async def send(op: str, **fields: Any) -> None:
        await socket.send(json.dumps({"op": op, **fields}))

    return send


# Expiry


async def test_everything_that_is_open_ends_within_a_second_of_exp(server: Server, ann: str) -> None:
    exp = time.time() + 3  # seconds; on a busy machine so many connections take more than one
    short = token(ann, subscribe=["user:*"], exp=exp)
    ends: dict[str, float] = {}

    async def timed(name: str, work: Awaitable[Any]) -> Any:
        result = await work
        ends[name] = time.time() - exp
        return result

    async with connected(server, short, f"user:{ann}") as socket, connected(server, token(ann, exp=exp)) as silent:
        _, _, last, status = await asyncio.gather(
            timed("ws", socket.wait_closed()),
            timed("ws without channels", silent.wait_closed()),
            timed("sse", bye(server, short, f"user:{ann}", asyncio.Event())),
            timed("poll", poll(server, short, f"user:{ann}")),
        )

    assert (socket.close_code, silent.close_code) == (4401, 4401)
    assert socket.close_reason == "the token has expired"
    assert (last["event"], last["op"], last["code"]) == ("bye", "bye", 4401)
    assert status == 401
    assert all(0 <= late < 1 for late in ends.values()), ends


async def test_a_refreshed_connection_lives_on_and_says_so(server: Server, publish: Publish, ann: str) -> None:
    exp = time.time() + 2
    async with connected(server, token(ann, exp=exp), f"user:{ann}") as socket:
        await say(socket)("auth", token=token(ann), ref=7)
        notice = await receive(socket)
        await asyncio.sleep(exp + 1 - time.time())
        published = await publish(f"user:{ann}", "progress", 1)

        assert (notice["op"], notice["ref"], list(notice["channels"])) == ("ready", 7, [f"user:{ann}"])
        assert (await receive(socket))["id"] == published


async def test_nothing_comes_from_a_channel_that_the_new_token_does_not_allow(server: Server, publish: Publish, ann: str) -> None:
    async with connected(server, token(ann, subscribe=["jobs:*"]), "jobs:a", "jobs:b", "jobs:c") as socket:
        await say(socket)("auth", token=token(ann, subscribe=["jobs:b"]), ref="r")
        notices = [await receive(socket) for _ in range(3)]
        for channel in ("jobs:a", "jobs:c", "jobs:b"):
            last = await publish(channel, "progress", 1)
        first = await receive(socket)
        await say(socket)("subscribe", channels={"jobs:a": None}, ref=2)
        refused = await receive(socket)

    assert [(n["op"], n["status"], n["channel"]) for n in notices[:2]] == [("error", 403, "jobs:a"), ("error", 403, "jobs:c")]
    assert (notices[2]["op"], notices[2]["ref"], list(notices[2]["channels"])) == ("ready", "r", ["jobs:b"])
    assert (first["channel"], first["id"]) == ("jobs:b", last)
    assert (refused["status"], refused["ref"]) == (403, 2)


async def test_a_bad_refresh_is_an_error_and_the_old_token_holds(server: Server, publish: Publish, ann: str) -> None:
    async with connected(server, token(ann), f"user:{ann}") as socket:
        for bad, status in ((token(ann, key="x" * 32), 401), ("", 401), (None, 400), (["x"], 400)):
            await say(socket)("auth", token=bad, ref=1)
            notice = await receive(socket)
            assert (notice["op"], notice["status"], notice["ref"]) == ("error", status, 1)
            assert not bad or str(bad) not in notice["detail"]
        await socket.send('{"op":"auth","token":"abcdefghijklm" oops')
        assert "abcdefghijklm" not in (await receive(socket))["detail"]
        published = await publish(f"user:{ann}")

        assert (await receive(socket))["id"] == published


async def test_another_subjects_token_ends_the_connection(server: Server, ann: str) -> None:
    async with connected(server, token(ann), f"user:{ann}") as socket:
        await say(socket)("auth", token=token("bob"), ref=1)
        await socket.wait_closed()

    assert socket.close_code == 4403


# Revocation


async def revoke(server: Server, body: Any, **claims: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.http) as client:
        return await client.post("/revoke", json=body, headers={"Authorization": f"Bearer {token('boss', **claims)}"})


async def test_a_revoked_subject_is_cut_on_every_gateway_within_a_second(servers: list[Server], ann: str) -> None:
    one, other = servers
    old = token(ann)
    started = asyncio.Event()
    waiting: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(bye(other, old, f"user:{ann}", started)),
        asyncio.ensure_future(poll(other, token(ann), f"user:{ann}")),
    ]
    async with (
        connected(one, old, f"user:{ann}") as here,
        connected(other, old, f"user:{ann}") as there,
        connected(other, token("bob")) as bob,
    ):
        await started.wait()
        answer = await revoke(one, {"sub": ann}, admin=True)
        at = time.time()
        await asyncio.gather(here.wait_closed(), there.wait_closed())
        last, status = await asyncio.gather(*waiting)
        took = time.time() - at
        await bob.send('{"op":"ping"}')

        assert (await receive(bob))["op"] == "pong"
    assert answer.json()["revoked"]["sub"] == ann
    assert (here.close_code, there.close_code, last["code"], status) == (4401, 4401, 4401, 401)
    assert took < 1
    assert [await poll(server, old, f"user:{ann}") for server in servers] == [401, 401]
    assert await poll(other, token(ann, iat=...), f"user:{ann}") == 401


async def test_a_token_issued_after_the_revocation_is_good(servers: list[Server], ann: str) -> None:
    at = (await revoke(servers[0], {"sub": ann}, admin=True)).json()["revoked"]["at"]

    async with connected(servers[1], token(ann, iat=at + 0.001), f"user:{ann}"):
        pass


async def test_a_ticket_or_a_refresh_does_not_evade_a_revocation(server: Server, ann: str) -> None:
    old = token(ann, jti=f"{ann}1")
    fresh = token(ann, jti=f"{ann}2")
    async with httpx.AsyncClient(base_url=server.http) as client:
        ticket = (await client.post("/tickets", headers={"Authorization": f"Bearer {old}"})).json()["ticket"]
        await revoke(server, {"jti": f"{ann}1"}, admin=True)
        refused = await client.get(f"/poll?channel=user:{ann}&ticket={ticket}")

    async with connected(server, fresh, f"user:{ann}") as socket:
        await say(socket)("auth", token=old, ref=1)
        assert (await receive(socket))["status"] == 401
    assert refused.status_code == 401


@pytest.mark.parametrize("end", ["expired", "revoked"])
async def test_a_request_with_a_slow_body_does_not_evade_a_revocation(server: Server, shared_redis: Redis, ann: str, end: str) -> None:
    exp = time.time() + (2 if end == "expired" else 60)
    own = token(ann, publish=["jobs:*"], exp=exp)

    async def body() -> AsyncIterator[bytes]:
        async with connected(server, own) as socket:
            yield b'{"channel":'
            if end == "revoked":
                await revoke(server, {"sub": ann}, admin=True)
            await asyncio.wait_for(socket.wait_closed(), 30)
        yield f'"jobs:{ann}"}}'.encode()

    async with httpx.AsyncClient(base_url=server.http, timeout=20) as client:
        headers = {"Authorization": f"Bearer {own}", "Content-Type": "application/json"}
        answer = await client.post("/publish", headers=headers, content=body())

    assert answer.status_code == 401
    assert not await shared_redis.exists(f"notify:log:{{jobs:{ann}}}")


async def test_a_gateway_that_had_lost_redis_learns_of_a_revocation(servers: list[Server], shared_redis: Redis, ann: str) -> None:
    old = token(ann)
    async with connected(servers[1], old, f"user:{ann}") as socket:
        # As if the revocation had been announced while this gateway was not connected.
        await shared_redis.zadd("notify:revoked", {json.dumps({"sub": ann}): time.time()})
        await shared_redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.wait_for(socket.wait_closed(), 30)

    assert socket.close_code == 4401
    assert [await poll(server, old, f"user:{ann}") for server in servers] == [401, 401]


async def test_a_subject_revoked_while_redis_was_away_gets_nothing_of_what_it_missed(server: Server, shared_redis: Redis, ann: str) -> None:
    # So many revocations that loading them takes longer than reading a log.
    others = {json.dumps({"sub": f"{ann}-{i}"}): time.time() for i in range(6_000)}
    async with connected(server, token(ann), f"user:{ann}") as socket:
        await shared_redis.zadd("notify:revoked", others)
        async with shared_redis.pipeline(transaction=False) as at_once:
            at_once.zadd("notify:revoked", {json.dumps({"sub": ann}): time.time()})
            at_once.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            at_once.execute_command("FCALL", "notify_publish", 1, f"user:{ann}", '"secret"')
            await at_once.execute()
        with pytest.raises(websockets.ConnectionClosed):
            pytest.fail(f"it was sent {await receive(socket)}")
    await shared_redis.zrem("notify:revoked", *others)

    assert socket.close_code == 4401


@pytest.mark.parametrize(
    ("body", "claims", "status"),
    [
        ({"sub": "x"}, {}, 403),
        ({"sub": "x"}, {"admin": False}, 403),
        ({"sub": "x", "jti": "y"}, {"admin": True}, 422),
        ({"sub": "x" * 5000}, {"admin": True}, 413),
    ],
)
async def test_only_an_admin_revokes_either_a_subject_or_a_token(server: Server, body: Any, claims: dict[str, Any], status: int) -> None:
    assert (await revoke(server, body, **claims)).status_code == status


async def test_after_junk_on_the_reserved_name_a_revocation_is_heard_and_others_go_on(
    server: Server, shared_redis: Redis, ann: str
) -> None:
    async with connected(server, token(ann), f"user:{ann}") as revoked, connected(server, token("bob")) as other:
        for junk in (b"", b"junk", b'{"sub":5}', b"\xff", b"[]"):
            await shared_redis.publish("notify:!revoked", junk)
        await revoke(server, {"sub": ann}, admin=True)
        await asyncio.wait_for(revoked.wait_closed(), 30)
        await other.send('{"op":"ping"}')

        assert revoked.close_code == 4401
        assert (await receive(other))["op"] == "pong"


# The team's own backend


@pytest.fixture(scope="module")
def backend() -> Iterator[Answering]:
    with answering() as backend:
        yield backend


@pytest.fixture(scope="module")
def asking(shared_redis_url: str, backend: Answering) -> Iterator[Server]:
    settings: dict[str, Any] = {"auth": "jwt", "authorize_url": backend.url, "allowed_origins": ORIGIN, "log_level": "debug"}
    with running_gateway(shared_redis_url, **settings) as server:
        yield server
        assert "Traceback" not in server.output()
        assert "session=s3cr3t" not in server.output()


def by_session(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    if headers.get("cookie") == "session=s3cr3t" or headers.get("authorization") in ("Bearer opaque", "Basic b3BhcXVl"):
        wanted = [name for name in json.loads(body)["channels"] if not name.startswith("secret")]
        return 200, json.dumps({"sub": "ann", "subscribe": wanted, "expires_in": 1.5}).encode()
    return 401, b""


async def test_a_session_is_enough_and_ends_when_the_backend_said(asking: Server, backend: Answering) -> None:
    backend.answer = by_session
    headers = {"Cookie": "session=s3cr3t", "Origin": ORIGIN}
    started = time.time()

    async with websockets.connect(f"{asking.ws}/ws?channel=jobs:1", additional_headers=headers) as socket:
        assert (await receive(socket))["op"] == "ready"
        ready = time.time()  # the backend has answered before that, and after the start
        await socket.wait_closed()
        ended = time.time()

    assert socket.close_code == 4401
    assert ended - started > 1.4
    assert ended - ready < 2.5


async def test_the_backends_no_and_a_foreign_origin_are_refused(asking: Server, backend: Answering) -> None:
    backend.answer = by_session
    session = {"Cookie": "session=s3cr3t", "Origin": ORIGIN}
    cases: list[tuple[str, dict[str, str], int]] = [
        ("jobs:1", session, 200),
        ("jobs:1&token=opaque", {}, 200),
        ("jobs:1", {"Authorization": "Bearer opaque"}, 200),
        ("jobs:1", {"Authorization": "Bearer opaque", "Origin": "https://evil.example"}, 200),
        ("jobs:1", {"Authorization": "Basic b3BhcXVl"}, 200),
        ("jobs:1", {"Authorization": "Basic b3BhcXVl", "Origin": ORIGIN}, 200),
        ("jobs:1", {"Authorization": "Basic b3BhcXVl", "Origin": "https://evil.example"}, 403),
        ("secret:1", session, 403),
        ("jobs:1", session | {"Cookie": "session=other"}, 401),
        ("jobs:1", session | {"Origin": "https://evil.example"}, 403),
        ("jobs:1", {"Cookie": "session=s3cr3t"}, 403),
        ("jobs:1", {}, 401),
    ]
    async with httpx.AsyncClient(base_url=asking.http) as client:
        for channel, headers, status in cases:
            answer = await client.get(f"/poll?channel={channel}&wait=0", headers=headers)
            assert answer.status_code == status, (channel, headers, answer.text)


async def test_a_backend_that_is_down_is_503_and_1013(asking: Server, backend: Answering) -> None:
    backend.answer = (500, b"")
    headers = {"Cookie": "session=s3cr3t", "Origin": ORIGIN}
    async with httpx.AsyncClient(base_url=asking.http) as client:
        answer = await client.get("/poll?channel=jobs:1&wait=0", headers=headers)
    async with websockets.connect(f"{asking.ws}/ws?channel=jobs:1", additional_headers=headers) as socket:
        await socket.wait_closed()

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert socket.close_code == 1013


# Without authentication


@pytest.fixture(scope="module")
def open_server(shared_redis_url: str) -> Iterator[Server]:
    with running_gateway(shared_redis_url, allowed_origins=ORIGIN) as server:
        yield server


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://localhost:3000"}, True),
        ({"Origin": ORIGIN}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost.evil.example"}, False),
        ({"Host": "evil.example:8000"}, False),
        ({"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}, False),
        ({"Host": "app.localhost:8000"}, True),
        ({"Host": "app.example"}, True),
    ],
)
async def test_a_foreign_page_reads_and_writes_nothing_on_a_developers_machine(
    open_server: Server, headers: dict[str, str], allowed: bool
) -> None:
    async with httpx.AsyncClient(base_url=open_server.http) as client:
        read = await client.get("/poll?channel=jobs:1&wait=0", headers=headers)
        write = await client.post("/publish", json={"channel": "jobs:9"}, headers=headers)

    assert (read.status_code, write.status_code) == ((200, 200) if allowed else (403, 403))
    if "Host" not in headers:
        async with websockets.connect(f"{open_server.ws}/ws?channel=jobs:1", additional_headers=headers) as socket:
            if allowed:
                assert (await receive(socket))["op"] == "ready"
            else:
                await socket.wait_closed()
                assert socket.close_code == 4403
