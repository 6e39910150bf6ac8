"""The log of a channel, on a real server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.core.page import Page, Since
from gateway.embedded import _wait, embedded_server, find_server, free_port
from gateway.errors import Unavailable, Unprocessable
from gateway.store.client import redis_client
from gateway.store.log import Log, Publication
from tests.support.programs import old_redis_program

BYTES = 262_144


@pytest.fixture(params=["valkey", "redis 7", "redis 6.2"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    program: str | None
    match request.param:
        case "valkey":
            program = find_server()
        case "redis 7":
            program = shutil.which("redis-server", path="/usr/local/bin:/usr/bin")
            if program is None:
                pytest.skip("needs Redis 7: apt install redis-server")  # skipped even in CI, because Valkey's functions behave the same
        case _:
            program = old_redis_program()
    with embedded_server(program=program) as url:
        client = redis_client(url)
        log = Log(client)
        await log.open()
        yield log
        await client.aclose()


@pytest.fixture
def server(log: Log) -> Redis:
    """The log's Redis, for what others do there."""
    return log._client


async def publish(log: Log, channel: str, *texts: str, keep: int | None = None) -> list[int]:
    answers = await log.append([Publication(channel, text.encode(), keep=keep) for text in texts])
    return [int(answer) for answer in answers if isinstance(answer, str)]


async def page(log: Log, channel: str, since: Since, size: int = BYTES) -> Page:
    [found] = await log.read([(channel, since, size)])
    assert isinstance(found, Page)
    return found


def events(found: Page) -> list[int]:
    return [item.id for item in found.items if item.event is not None]


def gaps(found: Page) -> int:
    return sum(item.event is None for item in found.items)


async def test_what_was_appended_is_read_in_order(log: Log) -> None:
    ids = await publish(log, "jobs:1", *"12345678")  # no more than read.lua looks at first
    whole = await page(log, "jobs:1", 0)

    assert (events(whole), whole.complete) == (ids, True)
    assert events(await page(log, "jobs:1", ids[0])) == ids[1:]
    assert events(await page(log, "jobs:1", "last")) == ids[-1:]
    assert events(await page(log, "jobs:1", "now")) == []


async def test_a_cursor_of_another_channel_misses_nothing(log: Log) -> None:
    [_, between, _] = [(await publish(log, channel, "1"))[0] for channel in ("jobs:1", "jobs:2", "jobs:1")]
    found = await page(log, "jobs:1", between)

    assert len(events(found)) == 1
    assert gaps(found) == 0


async def test_a_page_is_cut_at_its_size_and_says_so(log: Log) -> None:
    ids = await publish(log, "jobs:1", *(f'"{"x" * 1_000}"' for _ in range(10)))
    first = await page(log, "jobs:1", 0, 3_500)
    rest = await page(log, "jobs:1", first.position)

    assert (first.complete, rest.complete) == (False, True)
    assert 0 < len(events(first)) < 10
    assert events(first) + events(rest) == ids


async def test_trimmed_events_are_a_gap_only_for_readers_that_missed_them(log: Log) -> None:
    ids = await publish(log, "jobs:1", *"12345", keep=3)

    assert [gaps(await page(log, "jobs:1", cursor)) for cursor in (0, ids[0], ids[1], ids[4])] == [1, 1, 0, 0]


async def test_a_deleted_log_is_a_gap_only_for_readers_that_missed_something(log: Log, server: Redis) -> None:
    ids = await publish(log, "jobs:1", "1", "2")
    await server.delete("notify:log:{jobs:1}")
    before = [gaps(await page(log, "jobs:1", cursor)) for cursor in ids]
    later = await publish(log, "jobs:1", "3")
    after = [gaps(await page(log, "jobs:1", cursor)) for cursor in ids]

    assert before == after == [1, 0]
    assert events(await page(log, "jobs:1", ids[1])) == later


async def test_where_the_record_of_losses_was_evicted_anything_may_be_lost(log: Log, server: Redis) -> None:
    first, second = await publish(log, "jobs:1", "1", "2")
    await server.delete("notify:holder")
    pages = [await page(log, "jobs:1", since) for since in (first, second)]

    assert [(events(found), gaps(found)) for found in pages] == [([second], 1), ([], 0)]


async def test_foreign_text_under_a_key_of_ours_does_not_prevent_reading(log: Log, server: Redis) -> None:
    for key in ("clock", "holder", "last:{jobs:1}"):
        for text in ("", "gar bage", "-1", "9" * 40):
            [first] = await publish(log, "jobs:1", "1")
            await server.set(f"notify:{key}", text)
            await log.read([("jobs:1", first, BYTES), ("jobs:2", 0, BYTES)])
            [second] = await publish(log, "jobs:1", "2")

            assert events(await page(log, "jobs:1", first)) == [second]


async def test_lost_data_is_a_gap_on_every_channel(log: Log, server: Redis) -> None:
    [cursor] = await publish(log, "jobs:1", "1")
    await server.flushall()
    await log.open()

    assert gaps(await page(log, "jobs:1", cursor)) == 1
    assert gaps(await page(log, "jobs:other", cursor)) == 1
    assert gaps(await page(log, "jobs:other", 0)) == 0

    await publish(log, "jobs:2", "2")  # the newest id lies above the cursor again
    assert gaps(await page(log, "jobs:1", cursor)) == 1


async def test_a_refusal_comes_in_the_place_of_its_event(log: Log) -> None:
    answers = await log.append(
        [Publication("jobs:1", b"1"), Publication("a b", b"1"), Publication("jobs:1", b"{"), Publication("jobs:1", b"2")]
    )

    assert [isinstance(answer, str) for answer in answers] == [True, False, False, True]
    assert isinstance(answers[1], Unprocessable)
    assert "channel 'a b'" in answers[1].detail


async def test_who_comes_back_does_not_fetch_the_functions_to_look_at_them(log: Log, server: Redis) -> None:
    before = (await server.info("stats"))["total_net_output_bytes"]
    await log.open()

    assert (await server.info("stats"))["total_net_output_bytes"] - before < 20_000


async def test_the_function_for_everybody_is_there_again_once_a_gateway_is_asked_to_publish(log: Log, server: Redis) -> None:
    with suppress(ResponseError):  # before Redis 7 there is none
        await server.execute_command("FUNCTION", "DELETE", "notify")
    await log.open()
    published = await publish(log, "jobs:1", "1")

    assert events(await page(log, "jobs:1", 0)) == published != []


async def test_the_function_is_loaded_again_if_the_server_has_lost_it(log: Log, server: Redis) -> None:
    await server.execute_command("SCRIPT", "FLUSH")
    with suppress(ResponseError):  # before Redis 7 there are none
        await server.execute_command("FUNCTION", "FLUSH")

    assert len(await publish(log, "jobs:1", "1", "2")) == 2


async def test_a_full_memory_refuses_and_announces_nothing(log: Log, server: Redis) -> None:
    async with server.pubsub() as listening:
        await listening.subscribe("notify:jobs:1")
        await listening.get_message(timeout=30)
        await server.config_set("maxmemory", "1")
        [refused] = await log.append([Publication("jobs:1", b"1")])
        await server.config_set("maxmemory", "0")
        [accepted] = await log.append([Publication("jobs:1", b"2")])
        heard = await listening.get_message(timeout=30)

    assert isinstance(refused, Unavailable)
    assert "maxmemory" in refused.detail
    assert heard
    assert heard["data"].startswith(str(accepted).encode())


async def test_an_unavailable_redis_is_an_error() -> None:
    client = redis_client("redis://127.0.0.1:1")
    log = Log(client)
    for call in (log.append([Publication("jobs:1", b"1")]), log.probe("!probe", b"1")):
        with pytest.raises(Unavailable, match="Redis is away"):
            await call
    await client.aclose()


async def test_a_redis_that_refuses_is_not_taken_for_open(log: Log, server: Redis) -> None:
    await server.execute_command("ACL", "SETUSER", "default", "-@scripting")
    with pytest.raises(ResponseError, match="permissions"):
        await log.open()


async def test_one_entry_comes_even_if_it_is_larger_than_the_page(log: Log) -> None:
    ids = await publish(log, "jobs:1", f'"{"x" * 5_000}"', "2")
    first = await page(log, "jobs:1", 0, 1)

    assert events(first) == ids[:1]
    assert not first.complete


async def test_a_long_log_is_read_to_its_end_page_by_page(log: Log) -> None:
    ids = await publish(log, "jobs:1", *map(str, range(700)), keep=1_000)
    found, position, complete = [], 0, False
    while not complete:
        part = await page(log, "jobs:1", position)
        position, complete = part.position, part.complete
        found += events(part)
        assert gaps(part) == 0
        assert len(events(part)) <= 128  # Redis does nothing else while it looks at them

    assert found == ids


async def watched(log: Log, since: Since, size: int = BYTES) -> tuple[Page, list[list[str]]]:
    """Read a page; the page and the commands that Redis ran for it."""
    async with log._client.monitor() as monitor:
        found = await page(log, "jobs:1", since, size)
        await log._client.echo("end")
        commands = []
        while (command := (await monitor.next_command())["command"]) != "ECHO end":
            commands.append(command.split())
    return found, commands


@pytest.mark.parametrize("place", [None, 0, 50])
async def test_a_read_examines_hardly_more_than_it_returns(log: Log, place: int | None) -> None:
    """While Redis examines a log, it does nothing else."""
    ids = await publish(log, "jobs:1", *(f'"{"x" * 8_000}"' for _ in range(100)))
    found, commands = await watched(log, 0 if place is None else ids[place], 65_536)

    assert len(events(found)) == 8
    assert 8 <= sum(int(command[3]) - int(command[2]) + 1 for command in commands if command[0] == "LRANGE") <= 10


@pytest.mark.parametrize("size", [10, 1_000, 2_500])
async def test_a_page_says_which_event_follows_it(log: Log, size: int) -> None:
    ids = await publish(log, "jobs:1", *(f'"{"x" * 900}"' for _ in range(5)))
    found = await page(log, "jobs:1", ids[0], size)
    given = events(found)

    assert given == ids[1 : 1 + len(given)]
    assert found.horizon == ids[1 + len(given)] - 1


async def test_nothing_is_examined_for_a_reader_that_has_the_newest_event(log: Log) -> None:
    ids = await publish(log, "jobs:1", *map(str, range(10)))
    found, commands = await watched(log, ids[-1])

    assert (found.complete, found.position) == (True, ids[-1])
    assert not {"LINDEX", "LRANGE"} & {command[0] for command in commands}


POISON = [b"", b"junk", b"99 x", b"\xff\xfe", b"1 2 3", b"99999999999999999999 0 \n1", b"x" * 100_000]


@pytest.mark.parametrize("poison", POISON, ids=range(len(POISON)))
async def test_poison_in_a_log_is_stepped_over_and_counted(log: Log, server: Redis, poison: bytes) -> None:
    before = await publish(log, "jobs:1", "1", "2")
    await server.rpush("notify:log:{jobs:1}", poison)
    after = await publish(log, "jobs:1", "3")
    found = await page(log, "jobs:1", 0)

    assert events(found) == before + after
    assert gaps(found) == 0
    assert log.malformed == 1
    assert [events(await page(log, "jobs:1", cursor)) for cursor in before] == [before[1:] + after, after]


async def test_an_entry_that_is_no_event_keeps_its_place_in_the_order(log: Log, server: Redis) -> None:
    first, second, third = await publish(log, "jobs:1", "1", "2", "3")
    entry = await server.lindex("notify:log:{jobs:1}", 1)
    assert isinstance(entry, bytes)
    await server.lset("notify:log:{jobs:1}", 1, entry.replace(b"\n2", b"\n{"))  # type: ignore[arg-type]
    pages = [await page(log, "jobs:1", since) for since in (0, first, second)]

    assert [events(found) for found in pages] == [[first, third], [third], [third]]
    assert [gaps(found) for found in pages] == [0, 0, 0]


async def test_poison_anywhere_hides_no_event_from_any_cursor(log: Log, server: Redis) -> None:
    ids = []
    await server.rpush("notify:log:{jobs:1}", *[b"poison"] * 3)
    for count in (0, 1, 5, 0, 2, 17, 0, 4):
        ids += await publish(log, "jobs:1", "1")
        if count:
            await server.rpush("notify:log:{jobs:1}", *[b"poison"] * count)

    assert [events(await page(log, "jobs:1", id)) for id in ids] == [ids[i + 1 :] for i in range(len(ids))]
    assert [gaps(await page(log, "jobs:1", id)) for id in ids] == [0] * len(ids)


async def test_a_log_of_nothing_but_poison_is_read_to_its_end(log: Log, server: Redis) -> None:
    [cursor] = await publish(log, "jobs:2", "1")
    await server.rpush("notify:log:{jobs:1}", *[b"poison"] * 300)
    _, commands = await watched(log, "last")

    assert [events(await page(log, "jobs:1", since)) for since in (0, cursor, "last", "now")] == [[]] * 4
    assert len(commands) < 150  # for the newest event no more is looked at than for a page


async def test_more_poison_than_a_page_holds_is_stepped_over_in_one_read(log: Log, server: Redis) -> None:
    [before] = await publish(log, "jobs:1", "1")
    await server.rpush("notify:log:{jobs:1}", *[b"poison"] * 300)
    after = await publish(log, "jobs:1", "2", keep=1_000)

    assert await server.llen("notify:log:{jobs:1}") == 302
    assert events(await page(log, "jobs:1", before)) == after


async def test_poison_that_is_larger_than_a_page_is_stepped_over(log: Log, server: Redis) -> None:
    first = await publish(log, "jobs:1", "1")
    await server.rpush("notify:log:{jobs:1}", b"x" * 10_000)
    second = await publish(log, "jobs:1", "2")

    assert events(await page(log, "jobs:1", 0, 1_000)) == [*first, *second]


async def recorded(log: Log, *entries: str) -> None:
    """Record these events as if they had been published long ago."""
    await log._client.rpush("notify:log:{jobs:1}", *entries)
    await log._client.set("notify:last:{jobs:1}", entries[-1].split(" ")[0] + "0")
    holder = await log._client.get("notify:holder")
    assert isinstance(holder, bytes)
    await log._client.set("notify:holder", holder.split()[0] + b" ")


@pytest.mark.parametrize("shared", [3, 6, 8])
async def test_events_that_lie_hours_apart_are_read_and_collapsed_like_others(log: Log, shared: int) -> None:
    """An entry stores of the id before it only the digits in which the two differ."""
    [now] = await publish(log, "jobs:2", "1")
    old = int(str(now)[:shared].ljust(16, "0"))
    await recorded(log, f"{old} 0\n1")
    for json in (b"2", b"3"):
        [id] = await log.append([Publication("jobs:1", json, collapse="progress")])
    assert isinstance(id, str)
    pages = [await page(log, "jobs:1", since) for since in (0, old, old + 1, "last", now)]

    assert [events(found) for found in pages] == [[old, int(id)], *[[int(id)]] * 4]
    assert [gaps(found) for found in pages] == [0] * 5


async def test_an_event_that_is_collapsed_hours_later_still_follows_the_one_before(log: Log) -> None:
    [now] = await publish(log, "jobs:2", "1")
    old = (now - 100_000_000_000) // 10**8 * 10**8
    await recorded(log, f"{old} 0\n1", f"{old + 1} {str(old)[8:]} progress\n2")
    [id] = await log.append([Publication("jobs:1", b"3", collapse="progress")])
    assert isinstance(id, str)
    pages = [await page(log, "jobs:1", since) for since in (0, old, old + 1)]

    assert [events(found) for found in pages] == [[old, int(id)], [int(id)], [int(id)]]
    assert [gaps(found) for found in pages] == [0] * 3


@pytest.mark.parametrize("final", [False, True])
async def test_the_newest_event_is_known_by_its_entry_where_its_id_was_evicted(log: Log, server: Redis, final: bool) -> None:
    *_, newest = await publish(log, "jobs:1", "1", '{"type":"t","final":true}' if final else "2")
    await server.delete("notify:last:{jobs:1}")
    pages = [await page(log, "jobs:1", since) for since in (0, "last")]

    assert [(found.position, found.final) for found in pages] == [(newest, final)] * 2


async def test_poison_at_the_end_does_not_hide_the_newest_event(log: Log, server: Redis) -> None:
    [id] = await publish(log, "jobs:1", "1")
    await server.rpush("notify:log:{jobs:1}", b"junk")

    assert events(await page(log, "jobs:1", "last")) == [id]


async def test_a_key_of_a_wrong_kind_in_the_place_of_a_log_is_a_log_that_is_lost(
    log: Log, server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    [gone] = await publish(log, "jobs:2", "1")
    [id] = await publish(log, "jobs:1", "1")
    await server.set("notify:log:{jobs:2}", "not a list")
    bad, good, known, new = await log.read([("jobs:2", 0, BYTES), ("jobs:1", 0, BYTES), ("jobs:2", gone, BYTES), ("jobs:2", "last", BYTES)])

    assert isinstance(good, Page)
    assert events(good) == [id]
    assert isinstance(bad, Page)
    assert [(item.event, item.position) for item in bad.items] == [(None, gone)]
    assert [page.items for page in (known, new) if isinstance(page, Page)] == [[], []]
    assert "channel jobs:2: a log entry was stepped over: " in caplog.text
    assert "WRONGTYPE" in caplog.text


async def test_a_log_that_must_not_be_read_spoils_only_its_own_channel(log: Log, server: Redis) -> None:
    [id] = await publish(log, "jobs:1", "1")
    keys = ("~jobs:*", "~notify:clock", "~notify:holder", "~notify:last:*", "~notify:log:{jobs:1}")
    await server.execute_command("ACL", "SETUSER", "default", "resetkeys", *keys)
    try:
        bad, good = await log.read([("jobs:2", 0, BYTES), ("jobs:1", 0, BYTES)])
    finally:
        await server.execute_command("ACL", "SETUSER", "default", "allkeys")

    assert isinstance(good, Page)
    assert events(good) == [id]
    assert isinstance(bad, ResponseError)


class Restartable:
    """A server that can be killed and started again with its data on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._command = [find_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), *options]

    @contextmanager
    def running(self) -> Iterator[None]:
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        try:
            _wait(process, self._command[0], self.port, Path(os.devnull))
            yield
        finally:
            process.kill()
            process.wait()


async def gaps_after_restart(server: Restartable, *, save: bool) -> int:
    """Kill the server and start it again; how many gaps a reader that had everything gets then."""
    client = redis_client(f"redis://127.0.0.1:{server.port}")
    log = Log(client)
    try:
        with server.running():
            holder = await log.open()
            [cursor] = await publish(log, "jobs:1", "1")
            if save:
                await client.save()
            else:
                await client.execute_command("WAITAOF", 1, 0, 5_000)
        with server.running():
            await log.open(cursor, holder)
            return gaps(await page(log, "jobs:1", cursor))
    finally:
        await client.aclose()


async def test_a_restart_without_an_append_only_file_may_have_lost_something(tmp_path: Path) -> None:
    assert await gaps_after_restart(Restartable(tmp_path, "--save", ""), save=True) == 1


async def test_a_restart_with_an_append_only_file_has_lost_nothing(tmp_path: Path) -> None:
    assert await gaps_after_restart(Restartable(tmp_path, "--appendonly", "yes"), save=False) == 0


async def test_functions_that_are_loaded_again_have_lost_nothing(log: Log, server: Redis) -> None:
    [cursor] = await publish(log, "jobs:1", "1")
    with suppress(ResponseError):  # before Redis 7 there are none
        await server.execute_command("FUNCTION", "FLUSH")
    await server.script_flush()
    await log.open(cursor)
    [later] = await publish(log, "jobs:1", "2")
    found = await page(log, "jobs:1", cursor)

    assert (gaps(found), events(found)) == (0, [later])


async def test_opening_the_log_again_refuses_no_event(log: Log) -> None:
    opened = asyncio.Event()

    async def publish_on() -> int:
        number = 0
        while not opened.is_set():
            number += len(await publish(log, "jobs:1", "1"))
            await asyncio.sleep(0)
        return number

    publishing = [asyncio.ensure_future(publish_on()) for _ in range(6)]
    for _ in range(50):
        await log.open()
        await asyncio.sleep(0.001)
    opened.set()

    assert sum(await asyncio.gather(*publishing)) > 50


async def test_events_that_were_received_and_redis_does_not_know_were_lost(log: Log) -> None:
    [cursor] = await publish(log, "jobs:1", "1")
    await log.open(cursor + 1_000)

    assert gaps(await page(log, "jobs:1", cursor)) == 1
    assert cursor + 1_000 < (await publish(log, "jobs:1", "2"))[0] < time.time_ns() // 1000 + 1_000_000


@pytest.mark.parametrize(("days", "believed"), [(0.9, True), (1.1, False)])
async def test_a_received_id_is_believed_up_to_a_day_ahead_of_redis(log: Log, server: Redis, days: float, believed: bool) -> None:
    day = 86_400_000_000
    [cursor] = await publish(log, "jobs:1", "1")
    await server.set("notify:clock", str(cursor - 2 * day))  # as in an old snapshot
    received = cursor + int(days * day)
    await log.open(received)
    [later] = await publish(log, "jobs:1", "2")

    assert (later > received) == believed
    assert gaps(await page(log, "jobs:1", cursor)) == believed


async def test_a_server_that_begins_another_history_has_lost_nothing(log: Log, server: Redis) -> None:
    # As a server does by itself, some time after its last replica has left.
    holder = await server.get("notify:holder")
    assert isinstance(holder, bytes)
    await server.set("notify:holder", holder[:41] + b"0" * 40 + holder[81:])
    await log.open()

    assert await server.get("notify:holder") == holder


async def test_redis_is_told_once_of_the_newest_received_id(log: Log, server: Redis) -> None:
    [cursor] = await publish(log, "jobs:1", "1")
    await log.open(cursor + 1_000)
    holder = await server.get("notify:holder")
    await log.open(cursor + 1_000)

    assert await server.get("notify:holder") == holder
