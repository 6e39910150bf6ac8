"""The Redis functions, on a server that gateways of several releases use at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.core.page import Page
from gateway.store import library
from gateway.store.client import redis_client
from gateway.store.library import Library
from gateway.store.log import Log, Publication

Version = Callable[..., Library]
LUA = Path(library.__file__).parent


@pytest.fixture
async def client(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    await redis.execute_command("FUNCTION", "FLUSH")
    await redis.config_resetstat()
    client = redis_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def version(tmp_path: Path) -> Version:
    """Makes the library of a release, whose ``publish`` says its number and whose ``reads`` says it where it is asked for nothing."""

    def make(release: str) -> Library:
        folder = tmp_path / release
        folder.mkdir(exist_ok=True)
        publish, read = (LUA / "publish.lua").read_text(), (LUA / "read.lua").read_text()
        (folder / "publish.lua").write_text(publish.replace("'the event is missing'", f"'missing in {release}'"))
        (folder / "read.lua").write_text(
            read.replace("local replies = {}", f"local replies = {{}}\n  if #channels == 0 then return '{release}' end")
        )
        return Library("notify", 65_536, release, folder)

    return make


async def publish_of(client: Redis) -> str:
    """The release whose notify_publish is there."""
    with pytest.raises(Exception, match="missing in") as caught:
        await client.execute_command("FCALL", "notify_publish", 1, "jobs:1")
    return str(caught.value).removeprefix("INVALID missing in ")


async def reads_of(client: Redis, library: Library) -> str:
    answer: bytes = await client.execute_command(*library.command("reads", 0))
    return answer.decode()


async def names(client: Redis) -> set[str]:
    return {reply[1].decode() for reply in await client.execute_command("FUNCTION", "LIST")}


async def test_the_functions_are_loaded_once(client: Redis) -> None:
    for _ in range(2):
        await Library("notify", 65_536).load(client)
    calls = await client.info("commandstats")

    assert calls["cmdstat_function|load"]["calls"] == 2  # for everybody, and for our own
    assert all("@" not in line for line in Library("notify", 1).codes["notify"].splitlines() if "PREFIX" in line)


async def test_a_second_channel_is_refused_and_not_passed_over(client: Redis) -> None:
    await Library("notify", 65_536).load(client)

    with pytest.raises(ResponseError, match=r"^INVALID channel 'jobs:2': one channel is expected, in FCALL notify_publish 1 <channel>"):
        await client.execute_command("FCALL", "notify_publish", 2, "jobs:1", "jobs:2", "1")
    assert not await client.exists("notify:log:{jobs:1}")


async def test_an_older_release_does_not_replace_the_function_of_a_newer_one(client: Redis, version: Version) -> None:
    for release in ("0.9.2", "0.10.0", "0.9.10", "0.10"):
        await version(release).load(client)

    assert await publish_of(client) == "0.10.0"


async def test_the_same_release_with_other_settings_loads_its_own_function(client: Redis) -> None:
    for limit in (65_536, 10, 65_536):
        await Library("notify", limit, "1.0.0").load(client)
        with pytest.raises(Exception, match="the event") as caught:
            await client.execute_command("FCALL", "notify_publish", 1, "jobs:1", "x" * 11)
        assert ("at most 10 are allowed" in str(caught.value)) == (limit == 10)


async def test_each_release_reads_with_its_own_function(client: Redis, version: Version) -> None:
    newer, older = version("2.0.0"), version("1.0.0")
    for each in (newer, older, newer, older):
        await each.load(client)

    assert (await reads_of(client, newer), await reads_of(client, older)) == ("2.0.0", "1.0.0")


async def test_a_newer_release_removes_the_functions_of_older_ones_once(client: Redis, version: Version) -> None:
    older, newer = version("1.0.0"), version("2.0.0")
    await older.load(client)
    await newer.load(client)
    assert await names(client) == set(newer.codes)

    # A gateway of an older release still runs, and finds its functions gone.
    await older.load(client)
    await newer.load(client)
    assert await names(client) == set(newer.codes) | set(older.codes)


async def test_functions_that_are_not_ours_stay(client: Redis, version: Version) -> None:
    stays = {"notify_backup", "notify_0123456z", "notify2", "notify_01234567"}
    for name in stays:
        await client.execute_command("FUNCTION", "LOAD", f"#!lua name={name}\nredis.register_function('{name}', function() return 1 end)")
    await version("1.0.0").load(client)

    assert stays < await names(client)


async def test_two_releases_run_side_by_side_and_nobody_is_refused(client: Redis, redis_url: str, version: Version) -> None:
    logs: list[Log] = []
    for release in ("1.0.0", "2.0.0"):
        log = Log(redis_client(redis_url))
        log._library = version(release)
        await log.open()
        logs.append(log)
    ids: list[str] = []

    async def work(log: Log) -> None:
        for number in range(50):
            [id] = await log.append([Publication("jobs:1", b"%d" % number, keep=1_000)])
            assert isinstance(id, str), id
            ids.append(id)
            [page] = await log.read([("jobs:1", 0, 1_000_000)])
            assert isinstance(page, Page), page
            assert all(item.event for item in page.items)
            assert len(page.items) >= number
            if number % 5 == 0:
                await log.open(int(id))  # as after a loss of the connection

    async def start_others() -> None:
        for release in ("1.0.0", "2.0.0") * 10:
            await version(release).load(client)  # a process removes old functions when it starts
            await asyncio.sleep(0.005)

    await asyncio.gather(*map(work, logs), start_others())
    [page] = await logs[0].read([("jobs:1", 0, 1_000_000)])
    for log in logs:
        await log._client.aclose()

    assert isinstance(page, Page)
    assert sorted(ids) == [str(item.id) for item in page.items]
    assert await publish_of(client) == "2.0.0"
