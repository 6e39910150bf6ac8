"""The pub/sub connection: subscriptions, and how its loss is noticed and mended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from gateway.embedded import embedded_server, find_server, free_port
from gateway.store import listener as listener_module
from gateway.store.client import redis_client
from gateway.store.connection import ask
from gateway.store.listener import Listener
from gateway.store.receiver import MESSAGES_AT_ONCE, Receiver
from tests.faults.proxy import Proxy
from tests.store.test_receiver import connected
from tests.support.tls import tls_before
from tests.support.waiting import until


class Heard:
    """Keeps what a listener reports."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.lost = 0
        self.connected = 0

    async def on_connected(self) -> None:
        self.connected += 1


@contextlib.asynccontextmanager
async def listening(url: str, heard: Heard, *names: str) -> AsyncIterator[Listener]:
    client = redis_client(url)

    def lose() -> None:
        heard.lost += 1

    listener = Listener(
        client,
        "notify",
        on_message=lambda name, payload: heard.messages.append((name, payload)),
        on_lost=lose,
        on_connected=heard.on_connected,
    )
    for name in names:
        listener.subscribe(name)
    running = asyncio.ensure_future(listener.run())
    try:
        yield listener
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await client.aclose()


async def looks(client: Redis) -> int:
    """How often this server was asked for the subscribers of a channel."""
    return int((await client.info("commandstats")).get("cmdstat_pubsub|numsub", {}).get("calls", 0))


async def looked(client: Redis, times: int) -> None:
    """Wait until this server has been asked for the subscribers of a channel so many times more."""
    before = await looks(client)
    async with asyncio.timeout(30):
        while await looks(client) < before + times:
            await asyncio.sleep(0.01)


async def test_announcements_after_the_confirmation_are_received(redis_url: str, redis: Redis) -> None:
    heard = Heard()
    async with listening(redis_url, heard) as listener:
        for name in ("a", "b"):
            listener.subscribe(name)
        await listener.confirmed(["a", "b"])
        await redis.publish("notify:a", "1")
        await redis.publish("notify:c", "2")
        await redis.publish("notify:b", b"\xff")
        await until(lambda: len(heard.messages) == 2)

    assert heard.messages == [("a", b"1"), ("b", b"\xff")]


@pytest.mark.parametrize("url", ["unix://{path}", "unix://{path}?db=1", "{address}?protocol=3&decode_responses=yes"])
async def test_a_unix_socket_and_options_meant_for_other_programs(url: str) -> None:
    heard = Heard()
    # Not in pytest's folder, whose path is too long: macOS allows 103 bytes for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, embedded_server("--unixsocket", f"{folder}/s") as address:
        async with listening(url.format(path=f"{folder}/s", address=address), heard, "a") as listener:
            await listener.confirmed(["a"])
            found = await ask(listener._client, [("SET", "text", "1"), ("GET", "text")])
            await listener._client.publish("notify:a", "1")
            await until(lambda: heard.messages)

    assert found == [b"OK", b"1"]
    assert heard.messages == [("a", b"1")]


async def test_announcements_are_received_over_tls_even_if_they_are_many(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    heard = Heard()
    async with tls_before(int(redis_url.rpartition(":")[2]), tmp_path) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'certificate.pem'}"
        async with listening(url, heard) as listener:
            listener.subscribe("a")
            await listener.confirmed(["a"])
            for i in range(500):  # one by one, so that it is found busy and left alone for moments
                await redis.publish("notify:a", str(i))
            await until(lambda: len(heard.messages) == 500)

    assert [payload for _, payload in heard.messages] == [str(i).encode() for i in range(500)]
    assert heard.connected == 1


async def test_nothing_is_sent_to_a_server_with_an_invalid_certificate(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    async with tls_before(int(redis_url.rpartition(":")[2]), tmp_path) as port, listening(f"rediss://localhost:{port}", heard, "a"):
        await until(lambda: heard.lost)

    assert heard.connected == 0
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


async def test_announcements_of_an_unsubscribed_channel_are_not_received(redis_url: str, redis: Redis) -> None:
    heard = Heard()
    async with listening(redis_url, heard) as listener:
        listener.subscribe("a")
        too_early = listener.unsubscribe("a")
        await listener.confirmed(["a"])
        in_time = listener.unsubscribe("a")
        unknown = listener.unsubscribe("unknown")
        listener.subscribe("b")
        await listener.confirmed(["b"])
        await redis.publish("notify:a", "1")
        await redis.publish("notify:b", "2")
        await until(lambda: heard.messages)

    assert (too_early, in_time, unknown) == (False, True, False)
    assert heard.messages == [("b", b"2")]


async def test_a_channel_unsubscribed_and_subscribed_again_at_once_is_received(redis_url: str, redis: Redis) -> None:
    heard = Heard()
    async with listening(redis_url, heard) as listener:
        listener.subscribe("a")
        listener.subscribe("b")
        await listener.confirmed(["a", "b"])
        listener.unsubscribe("a")
        listener.subscribe("c")
        listener.subscribe("a")
        in_order = list(listener._to_send)
        await listener.confirmed(["a"])
        for name in ("a", "b", "c"):
            await redis.publish(f"notify:{name}", "1")
        await until(lambda: len(heard.messages) == 3)

    assert [name for name, _ in heard.messages] == ["a", "b", "c"]
    assert in_order == ["c", "a"]  # in which they are confirmed: another one would take the confirmation of a for that of c


async def test_a_channel_unsubscribed_while_redis_is_away_is_not_subscribed_again(redis_url: str, redis: Redis) -> None:
    heard = Heard()
    async with (
        Proxy(int(redis_url.rpartition(":")[2])) as way,
        listening(f"redis://127.0.0.1:{way.port}", heard, "a", "b", "c") as listener,
    ):
        await listener.confirmed(["a", "b", "c"])
        way.mode = "refuse"
        way.reset()
        await until(lambda: heard.lost)
        listener.subscribe("d")
        listener.subscribe("e")
        waiting = asyncio.ensure_future(listener.confirmed(["e"]))
        await asyncio.sleep(0)
        given_up = [listener.unsubscribe(name) for name in ("a", "d", "unknown")]
        piled_up = set(listener._to_send) - {"b", "c", "e"}
        way.mode = "pass"
        async with asyncio.timeout(30):
            await waiting
            await listener.confirmed(["b", "c"])
        followed = await redis.pubsub_channels("notify:*")
        for name in ("a", "b", "c", "d", "e"):
            await redis.publish(f"notify:{name}", "1")
        await until(lambda: len(heard.messages) == 3)

    assert given_up == [True, True, False]
    assert piled_up == set()
    assert sorted(followed) == [b"notify:b", b"notify:c", b"notify:e"]
    assert [name for name, _ in heard.messages] == ["b", "c", "e"]


async def test_a_pending_confirmation_comes_from_the_next_connection() -> None:
    listener = Listener(Redis(), "notify", on_message=lambda *_: None, on_lost=lambda: None, on_connected=Heard().on_connected)
    gone = [f"gone{i}" for i in range(10)]
    for name in gone:
        listener.subscribe(name)
        listener._take([b"subscribe", b"notify:" + name.encode(), 1])
    for name in gone:
        assert listener.unsubscribe(name)
    listener.subscribe("a")  # the eleventh that this connection is asked for, and the first of the next one
    waiting = asyncio.ensure_future(listener.confirmed(["a"]))
    await asyncio.sleep(0)

    listener._unconfirm()
    await asyncio.sleep(0)
    assert not waiting.done()
    listener._take([b"subscribe", b"notify:a", 1])
    async with asyncio.timeout(30):
        await waiting


@pytest.mark.parametrize("names", [[], ["unknown"]])
async def test_channels_that_nobody_asked_for_are_not_waited_for(names: list[str]) -> None:
    listener = Listener(Redis(), "notify", on_message=lambda *_: None, on_lost=lambda: None, on_connected=Heard().on_connected)

    async with asyncio.timeout(30):
        await listener.confirmed(names)


async def test_other_answers_of_redis_confirm_nothing() -> None:
    listener = Listener(Redis(), "notify", on_message=print, on_lost=print, on_connected=print)
    listener.subscribe("a")
    waiting = asyncio.ensure_future(listener.confirmed(["a"]))
    for answer in ([b"pong", b""], [b"unsubscribe", b"notify:b", 0]):
        await asyncio.sleep(0)
        listener._take(answer)
    await asyncio.sleep(0)
    too_early = waiting.done()
    listener._take([b"subscribe", b"notify:a", 1])
    async with asyncio.timeout(30):
        await waiting

    assert not too_early


async def test_a_process_that_stood_still_first_reads_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "PING_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    listener = Listener(Redis(), "notify", on_message=print, on_lost=print, on_connected=print, silence=60)
    async with connected() as (transport, _server):
        receiver = Receiver(print, transport)
        receiver.heard_at = loop.time() - 100
        still_watching = asyncio.Event()

        class Connection:
            pings = 0

            async def send_command(self, *_: object, **__: object) -> None:
                self.pings += 1
                if self.pings == 1:
                    loop.call_soon(time.sleep, 0.05)
                else:
                    still_watching.set()

        watching = asyncio.ensure_future(listener._watch(Connection(), receiver))  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            await still_watching.wait()
        watching.cancel()
        await asyncio.wait([watching])


async def test_the_number_of_unconfirmed_subscriptions_is_bounded(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "UNCONFIRMED", 100)
    monkeypatch.setattr(listener_module, "BATCH", 50)
    names = [f"c{i}" for i in range(600)]
    ahead = []
    async with (
        Proxy(int(redis_url.rpartition(":")[2])) as way,
        listening(f"redis://127.0.0.1:{way.port}", Heard(), "first") as listener,
    ):
        await listener.confirmed(["first"])
        way.latency = 0.05
        for name in names:
            listener.subscribe(name)
        waiting = asyncio.ensure_future(listener.confirmed(names))
        async with asyncio.timeout(30):
            while not waiting.done():
                asked_for = len(await redis.pubsub_channels("notify:*"))
                ahead.append(asked_for - listener._confirmed)
                await asyncio.sleep(0.005)

    assert 50 <= max(ahead) <= 150


async def test_more_is_asked_for_only_once_enough_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "UNCONFIRMED", 2)
    monkeypatch.setattr(listener_module, "BATCH", 2)
    listener = Listener(Redis(), "notify", on_message=print, on_lost=print, on_connected=print)
    for number in range(6):
        listener.subscribe(f"c{number}")
    asked_for = 0

    class Connection:
        async def send_command(self, command: str, *names: bytes, check_health: bool) -> None:
            nonlocal asked_for
            asked_for += len(names)

    sending = asyncio.ensure_future(listener._send(Connection()))  # type: ignore[arg-type]
    seen = []
    for _ in range(3):
        for _ in range(10):
            await asyncio.sleep(0)
        seen.append(asked_for)
        listener._take([b"subscribe", b"notify:c", 1])
    sending.cancel()

    assert seen == [4, 4, 6]


async def test_the_pauses_between_attempts_to_connect_grow_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "BACKOFF", (0.001, 0.006))
    monkeypatch.setattr("random.uniform", lambda _least, most: most)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    async with listening(f"redis://127.0.0.1:{free_port()}", Heard()), asyncio.timeout(30):
        while len(pauses) < 4:
            await sleep(0.001)

    assert pauses[:4] == [0.002, 0.004, 0.006, 0.006]


async def test_a_server_that_is_the_master_is_reported(redis_url: str) -> None:
    confirmed = asyncio.Event()
    async with listening(redis_url, Heard(), "a") as listener, asyncio.timeout(30):
        listener._on_master = confirmed.set
        await confirmed.wait()


def test_a_lost_connection_is_away_since_its_loss() -> None:
    listener = Listener(Redis(), "notify", on_message=print, on_lost=print, on_connected=print)
    before = listener.away
    listener._lost_at = time.monotonic() - 5

    assert before == 0
    assert 5 <= listener.away <= time.monotonic() - listener._lost_at


async def test_thousands_are_subscribed_in_few_commands(redis_url: str, redis: Redis) -> None:
    async with listening(redis_url, Heard()) as listener:
        names = [f"c{i}" for i in range(5_000)]
        for name in names:
            listener.subscribe(name)
        await listener.confirmed(names)

    assert (await redis.info("commandstats"))["cmdstat_subscribe"]["calls"] <= 6


async def test_a_killed_connection_is_reported_and_opened_again(redis_url: str, redis: Redis) -> None:
    heard = Heard()
    async with listening(redis_url, heard) as listener:
        listener.subscribe("a")
        for turn in range(10):
            await listener.confirmed(["a"])
            lost = heard.lost
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda lost=lost: heard.lost > lost)
            await listener.confirmed(["a"])
            await redis.publish("notify:a", str(turn))
            await until(lambda turn=turn: ("a", str(turn).encode()) in heard.messages)

    assert heard.connected == 11


async def test_while_no_file_can_be_opened_a_new_connection_is_tried_again(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    make = BlockingConnectionPool.make_connection
    failures = [OSError(errno.EMFILE, "Too many open files")] * 2

    def make_later(self: BlockingConnectionPool) -> object:
        if failures:
            raise failures.pop()  # redis-py reads its own version from a file for each new connection
        return make(self)

    async with listening(redis_url, heard, "a") as listener:
        await listener.confirmed(["a"])
        monkeypatch.setattr(BlockingConnectionPool, "make_connection", make_later)
        await redis.client_kill_filter(_type="pubsub")
        await until(lambda: heard.connected == 2)

    assert failures == []


async def test_a_server_that_does_not_answer_a_new_connection_in_time_is_tried_again(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = []  # how many cancellations the listener's task counts: if any are left, Python 3.11.2 takes a timeout for one

    class Hanging(Heard):
        async def on_connected(self) -> None:
            await super().on_connected()
            task = asyncio.current_task()
            assert task is not None
            marks.append(task.cancelling())
            if self.connected == 2:
                monkeypatch.setattr(listener_module, "DEADLINE", 30)  # for the next one, which on a busy machine takes longer
                await asyncio.Event().wait()

    heard = Hanging()
    async with listening(redis_url, heard, "a") as listener:
        await listener.confirmed(["a"])
        monkeypatch.setattr(listener_module, "DEADLINE", 0.1)
        await redis.client_kill_filter(_type="pubsub")
        await until(lambda: heard.connected == 3)
        await listener.confirmed(["a"])

    assert marks == [0, 0, 0]


async def test_a_silent_server_is_pinged(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "PING_SECONDS", 0.02)
    async with listening(redis_url, Heard(), "a"), asyncio.timeout(30):
        while (await redis.info("commandstats")).get("cmdstat_ping", {}).get("calls", 0) < 3:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_server_that_hangs_or_dies_is_noticed_within_3_seconds(tmp_path: Path, how: signal.Signals) -> None:
    port, heard = free_port(), Heard()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([find_server(), "--port", str(port), "--dir", str(tmp_path), "--save", ""], stdout=subprocess.DEVNULL)

    server = start()
    try:
        async with listening(f"redis://127.0.0.1:{port}", heard) as listener:
            listener.subscribe("a")
            await listener.confirmed(["a"])
            lost = heard.lost
            os.kill(server.pid, how)
            await until(lambda: heard.lost > lost, 3.5)
            if how == signal.SIGKILL:
                server.wait()
                server = start()
            else:
                os.kill(server.pid, signal.SIGCONT)
            async with asyncio.timeout(30):
                await listener.confirmed(["a"])
    finally:
        server.kill()
        server.wait()


async def test_a_burst_leaves_turns_of_the_loop_to_others_and_keeps_its_order(redis_url: str, redis: Redis) -> None:
    heard, most, seen = Heard(), 0, 0
    async with listening(redis_url, heard) as listener:
        listener.subscribe("a")
        await listener.confirmed(["a"])
        async with redis.pipeline(transaction=False) as pipeline:
            for i in range(5_000):
                pipeline.publish("notify:a", str(i))
            publishing = asyncio.ensure_future(pipeline.execute())
            while len(heard.messages) < 5_000:
                await asyncio.sleep(0)
                most, seen = max(most, len(heard.messages) - seen), len(heard.messages)
            await publishing

    assert [int(payload) for _, payload in heard.messages] == list(range(5_000))
    assert most <= 4 * MESSAGES_AT_ONCE


async def test_an_error_of_the_callback_is_raised_and_not_taken_for_a_lost_connection() -> None:
    with embedded_server() as url:
        client = redis_client(url)

        def fail(_name: str, _payload: bytes) -> None:
            raise ZeroDivisionError

        listener = Listener(client, "notify", on_message=fail, on_lost=lambda: None, on_connected=Heard().on_connected)
        listener.subscribe("a")
        running = asyncio.ensure_future(listener.run())
        await listener.confirmed(["a"])
        await client.publish("notify:a", "1")
        async with asyncio.timeout(30):
            with pytest.raises(ZeroDivisionError):
                await running
        await client.aclose()


async def test_killed_every_50_ms_it_reconnects_and_forgets_no_channel(redis_url: str, redis: Redis) -> None:
    heard = Heard()
    names = [f"c{i}" for i in range(50)]
    async with listening(redis_url, heard) as listener:
        for name in names:
            listener.subscribe(name)
        for _ in range(40):
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.05)
        await listener.confirmed(names)
        for name in names:
            await redis.publish(f"notify:{name}", "1")
        await until(lambda: len(heard.messages) >= len(names))

    assert [name for name, _ in heard.messages] == names
    assert heard.lost >= heard.connected - 1 > 1


@pytest.mark.parametrize("garbage", [b"?this is not Redis\r\n", b"-ERR no\r\n", b"$9999999999999999999\r\n", b"*1\r\n*1\r\n?"])
async def test_a_server_that_violates_the_protocol_is_disconnected_and_tried_again(garbage: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(4096):
                writer.write(garbage if b"SUBSCRIBE" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    heard = Heard()
    async with server, listening(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard) as listener:
        listener.subscribe("a")
        await until(lambda: heard.lost >= 2)
        await asyncio.sleep(0)

    assert heard.connected >= 2
    assert heard.messages == []


async def test_an_address_that_leads_to_another_server_is_followed_there(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The old master is well, closes no connection, and still believes to be the master.
    monkeypatch.setattr(listener_module, "MASTER_SECONDS", 0.1)
    heard = Heard()
    with embedded_server() as other:
        async with Proxy(int(redis_url.rpartition(":")[2])) as way, listening(f"redis://127.0.0.1:{way.port}", heard) as listener:
            listener.subscribe("a")
            await listener.confirmed(["a"])
            async with redis_client(redis_url) as client:
                await looked(client, 2)  # so that it has been seen there
            way.target = int(other.rpartition(":")[2])
            await until(lambda: heard.connected == 2)
            await listener.confirmed(["a"])
            async with redis_client(other) as client:
                await client.publish("notify:a", "1")
            await until(lambda: heard.messages)

    assert heard.messages == [("a", b"1")]
    assert heard.lost == 2  # the end of the test is one, too


async def test_a_password_that_was_changed_is_logged_once_before_the_connection_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener_module, "MASTER_SECONDS", 0.01)
    heard = Heard()
    with embedded_server() as url:
        own = url.replace("://", "://gateway:old@")
        async with redis_client(url) as client:
            await client.execute_command("ACL", "SETUSER", "gateway", "on", ">old", "~*", "&*", "+@all")
            async with listening(own, heard, "a") as listener:
                await listener.confirmed(["a"])
                await looked(client, 2)
                await client.execute_command("ACL", "SETUSER", "gateway", "resetpass", ">new")
                await until(lambda: "takes no new connection" in caplog.text)
                await looked(client, 20)
                await client.publish("notify:a", "1")
                await until(lambda: heard.messages)

    assert heard.connected == 1
    assert [line for line in caplog.messages if "takes no new connection" in line] == [caplog.messages[0]]
    assert "AuthenticationError" in caplog.messages[0]


async def test_a_server_that_never_had_our_subscriptions_is_not_disconnected(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As with a proxy that keeps pub/sub connections itself, or sends each connection to another server.
    monkeypatch.setattr(listener_module, "MASTER_SECONDS", 0.02)
    heard = Heard()
    with embedded_server() as other:
        async with Proxy(int(redis_url.rpartition(":")[2])) as way, redis_client(other) as client:

            async def lead_elsewhere() -> None:
                way.target = int(other.rpartition(":")[2])

            heard.on_connected = lead_elsewhere  # type: ignore[method-assign]
            async with listening(f"redis://127.0.0.1:{way.port}", heard, "a"):
                async with asyncio.timeout(30):
                    while await looks(client) < 5:
                        await asyncio.sleep(0.01)
                lost = heard.lost

    assert lost == 0


async def test_a_server_that_becomes_a_replica_is_disconnected(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    # It passes on what its new master announces, except what was announced before the two were connected.
    monkeypatch.setattr(listener_module, "MASTER_SECONDS", 0.02)
    heard = Heard()
    async with listening(redis_url, heard, "a") as listener:
        await listener.confirmed(["a"])
        await redis.replicaof("127.0.0.1", str(free_port()))
        await until(lambda: heard.lost)

        assert listener.relayed
