"""The commands of a WebSocket client, and how they are answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import dropwhile
from socket import create_connection
from typing import Any

import pytest
import websockets
from redis.asyncio import Redis

from gateway import Settings, create_app
from gateway.app import Gateway
from gateway.auth import jwks
from gateway.core.grant import Grant
from gateway.server.sockets import WebSocketProtocol
from gateway.transports.websocket import MAX_REASON_BYTES, close_reason
from tests.auth.test_jwks import EC, ED, entry, key_set, token
from tests.integration.test_hot_path import serving
from tests.support.answering import answering
from tests.support.feeds import hanging
from tests.support.servers import Server, running_gateway
from tests.support.waiting import until
from tests.support.wire import PING, TEXT, upgrade, websocket


def test_a_reason_fits_a_close_frame_and_stays_utf_8() -> None:
    assert close_reason("short") == "short"
    for text in ("x" * 200, "ä" * 200, "\U0001f600" * 100):
        assert len(close_reason(text).encode()) <= MAX_REASON_BYTES
        assert close_reason(text).endswith("...")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("nope", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"op":"dance"}', "op 'dance'"),
        ("{}", "op null"),
        ('{"op":"subscribe"}', "channels null"),
        ('{"op":"subscribe","channels":["a"]}', "channels ['a']"),
        ('{"op":"subscribe","channels":{"a b":null}}', "channel 'a b'"),
        ('{"op":"subscribe","channels":{"a":"x"}}', "channel 'a': cursor 'x'"),
        ('{"op":"subscribe","channels":{"a":5}}', "channel 'a': cursor 5"),
        ('{"op":"unsubscribe","channels":"a"}', "channels 'a'"),
        ('{"op":"ping","ref":{}}', "ref {}"),
        (json.dumps({"op": "ping", "ref": "x" * 255}), "at most 256 bytes"),
        ('{"op":"ping","ref":' + "9" * 257 + "}", "at most 256 bytes"),
        (json.dumps({"op": "subscribe", "channels": {f"c{i}": None for i in range(129)}}), "129 channels"),
    ],
)
async def test_a_wrong_command_is_named_and_the_connection_goes_on(server: Server, command: str, named: str) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        await socket.send(command)
        error = json.loads(await socket.recv())
        await socket.send('{"op":"ping"}')
        pong = json.loads(await socket.recv())

    assert (error["op"], error["status"]) == ("error", 400)
    assert named in error["detail"]
    assert pong["op"] == "pong"


async def test_an_answer_carries_its_reference_and_a_success_without_one_is_not_answered(server: Server) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        for command in ('"auth","token":"t"', '"unsubscribe","channels":[]', '"dance","ref":"seven"', '"auth","token":"t","ref":8'):
            await socket.send(f'{{"op":{command}}}')
        answers = [json.loads(await socket.recv()) for _ in range(2)]

    assert [(answer["op"], answer["ref"]) for answer in answers] == [("error", "seven"), ("ready", 8)]


@pytest.mark.parametrize(("data", "code"), [(b"\x00\x01", 1003), ("x" * 70_000, 1009)])
async def test_a_message_that_is_no_command_closes_the_connection(server: Server, data: bytes | str, code: int) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        await socket.send(data)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


async def test_the_rate_of_changes_of_channels_is_limited(server: Server) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        for turn in range(6):
            names = [f"c{turn}-{i}" for i in range(128)]
            await socket.send(json.dumps({"op": "subscribe", "channels": dict.fromkeys(names, "now")}))
            await socket.send(json.dumps({"op": "unsubscribe", "channels": names}))
        answers = [json.loads(await asyncio.wait_for(socket.recv(), 30)) for _ in range(6)]
        await socket.send('{"op":"ping"}')
        pong = json.loads(await asyncio.wait_for(socket.recv(), 30))

    assert Counter(answer.get("status", answer["op"]) for answer in answers) == {"ready": 4, 429: 2}
    assert pong["op"] == "pong"


def test_the_head_leaves_in_one_write_with_what_comes_first(shared_redis_url: str) -> None:
    with running_gateway(shared_redis_url) as server, create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(upgrade("/ws?channel=jobs:none"))
        received = client.recv(65_536)

    assert received.startswith(b"HTTP/1.1 101 ")
    assert b'"op":"ready"' in received


@pytest.mark.parametrize(
    ("query", "ends"),
    [("", "open"), ("?channel=jobs:1", "open"), ("?channel=jobs:1", "sent away"), ("?channel=bad name", "refused")],
    ids=["no channel", "a channel", "sent away", "refused"],
)
async def test_the_head_comes_soon_while_redis_says_nothing(redis_url: str, redis: Redis, query: str, ends: str) -> None:
    settings = Settings(redis_url=redis_url, auth="none", heartbeat_seconds=60)  # a heartbeat would let the head go
    gateway = create_app(settings)
    async with serving(gateway, settings) as port, hanging(redis):
        began = time.monotonic()
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws{query.replace(' ', '%20')}", open_timeout=5) as client:
            took = time.monotonic() - began
            if ends == "sent away":
                for end in gateway.services.connections.endings():
                    end(1012, "")
            if ends != "open":
                await client.wait_closed()

    assert took < 3
    assert client.close_code == {"open": 1000, "sent away": 1012, "refused": 4400}[ends]


async def test_no_head_is_held_back_during_a_drain(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(redis_url=redis_url, auth="none")
    gateway = create_app(settings)
    authenticate, held = gateway.services.gate.authenticate, list[WebSocketProtocol]()

    async def begin_the_drain(scope: Any, channels: Any) -> Grant:
        gateway.services.draining = True
        return await authenticate(scope, channels)

    def hold_head(writer: WebSocketProtocol) -> None:
        held.append(writer)

    monkeypatch.setattr(gateway.services.gate, "authenticate", begin_the_drain)
    monkeypatch.setattr(WebSocketProtocol, "hold_head", hold_head)
    async with serving(gateway, settings) as port, websockets.connect(f"ws://127.0.0.1:{port}/ws?channel=jobs:1") as client:
        assert json.loads(await client.recv())["op"] == "ready"
        gateway.services.draining = False

    assert held == []


@contextlib.asynccontextmanager
async def held_back(redis_url: str, redis: Redis) -> AsyncIterator[tuple[Gateway, asyncio.StreamReader]]:
    """A gateway, and a client that waits for the head of its answer, because Redis says nothing."""
    settings = Settings(redis_url=redis_url, auth="none")
    gateway = create_app(settings)
    async with serving(gateway, settings) as port, hanging(redis):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade("/ws?channel=jobs:1"))
        await until(lambda: gateway.services.connections.count)
        yield gateway, reader
        writer.close()


async def test_a_client_that_is_sent_away_before_the_first_event_gets_the_head_first(redis_url: str, redis: Redis) -> None:
    async with held_back(redis_url, redis) as (gateway, reader):
        for end in gateway.services.connections.endings():
            end(1012, "")
        received = await reader.readuntil(b"\x88\x02\x03\xf4")

    assert received.startswith(b"HTTP/1.1 101 ")


async def test_a_heartbeat_before_the_first_event_brings_the_head_first(redis_url: str, redis: Redis) -> None:
    async with held_back(redis_url, redis) as (gateway, reader):
        for stream in gateway.services.connections._open:
            stream.beat()
        received = await reader.readuntil(b"\x89\x00")

    assert received.startswith(b"HTTP/1.1 101 ")


def test_a_ping_keeps_it_open(shared_redis_url: str) -> None:
    with running_gateway(shared_redis_url, heartbeat_seconds="1") as server, websocket(server.port, "/ws?channel=jobs:none") as wire:
        coming = (opcode for opcode, _ in iter(wire.frame, None))
        since_ready = dropwhile(lambda opcode: opcode == PING, coming)  # the ping may be answered before the log was read
        opcodes = [next(since_ready) for _ in range(2)]

    assert opcodes == [TEXT, PING]  # ready, and then nothing happens


async def test_the_channels_of_all_commands_together_are_counted(server: Server) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        answers = []
        for channels in ({f"c{i}": "now" for i in range(128)}, {"more": "now"}):
            await socket.send(json.dumps({"op": "subscribe", "channels": channels}))
            answers.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
        await socket.send('{"op":"unsubscribe","channels":["c0"]}')
        await socket.send('{"op":"subscribe","channels":{"more":"now"}}')
        answers.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))

    assert [answer.get("status", answer["op"]) for answer in answers] == ["ready", 400, "ready"]
    assert "129 channels" in answers[1]["detail"]
    assert answers[1]["channel"] == "more"


async def test_subscribing_again_to_the_same_channels_is_allowed(server: Server) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        for count in range(1, 129):  # like client.js, which sends channels without an answer again for each new element of a page
            await socket.send(json.dumps({"op": "subscribe", "channels": {f"c{i}": "now" for i in range(count)}, "ref": count}))
        answers = [json.loads(await asyncio.wait_for(socket.recv(), 30)) for _ in range(128)]

    assert [answer["ref"] for answer in answers] == list(range(1, 129))
    assert {answer["op"] for answer in answers} == {"ready"}


async def test_the_number_of_commands_that_wait_for_redis_is_bounded(redis_url: str) -> None:
    async with Redis.from_url(redis_url, protocol=2) as redis:
        process = (await redis.info("server"))["process_id"]
    with running_gateway(redis_url, before="from gateway.transports import websocket as w; w.MAX_UNANSWERED = 5") as server:
        async with websockets.connect(f"{server.ws}/ws") as socket:
            os.kill(process, signal.SIGSTOP)
            try:
                for number in range(6):
                    await socket.send(json.dumps({"op": "subscribe", "channels": {"a": None}, "ref": number}))
                error = json.loads(await asyncio.wait_for(socket.recv(), 30))
            finally:
                os.kill(process, signal.SIGCONT)
            answers = [json.loads(await asyncio.wait_for(socket.recv(), 30)) for _ in range(5)]

    assert (error["op"], error["status"], error["ref"]) == ("error", 429, 5)
    assert [(answer["op"], answer["ref"]) for answer in answers] == [("ready", number) for number in range(5)]


async def test_a_thousand_commands_at_once_are_too_many(server: Server) -> None:
    async with websockets.connect(f"{server.ws}/ws") as socket:
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(1_000):
                await socket.send('{"op":"ping"}')
        with contextlib.suppress(websockets.ConnectionClosed):
            async with asyncio.timeout(30):
                while True:
                    await socket.recv()

    assert socket.close_code == 1008


async def test_a_connection_that_ends_while_its_new_token_is_checked_is_forgotten(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "ASK_SECONDS", 0.0)
    ended = threading.Event()
    with answering() as keys:
        keys.answer = (200, key_set(entry(EC, "old")))
        settings = Settings(redis_url=redis_url, auth="jwt", jwks_url=keys.url)
        gateway = create_app(settings)
        async with serving(gateway, settings) as port:
            async with websockets.connect(f"ws://127.0.0.1:{port}/ws?channel=user:ann&token={token()}") as socket:
                await socket.recv()
                keys.answer = lambda *_: (200 if ended.wait(30) else 500, key_set(entry(ED, "new")))
                await socket.send(json.dumps({"op": "auth", "token": token(ED, "new", "EdDSA")}))
                await until(lambda: len(keys.requests) == 2)
                checking = [task for task in asyncio.all_tasks() if "_logged" in repr(task)]
                for end in gateway.services.connections.endings():
                    end(1012, "")
                await socket.wait_closed()
            ended.set()
            await asyncio.wait(checking)

            assert len(checking) == 1
            assert not gateway.services.access._holders
