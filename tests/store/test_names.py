"""Looking up host names, with a resolver that answers when the test wants."""

from __future__ import annotations

import _thread
import asyncio
import socket
import threading
from typing import Any

import pytest

from gateway.store import names as names_module
from gateway.store.client import redis_client
from gateway.store.names import Names
from tests.support.threads import threads_in_vain
from tests.support.waiting import eventually, until


class Resolver:
    """Replaces the system's resolver; a lookup waits until the test answers it."""

    def __init__(self, *addresses: str) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.addresses = addresses

    def __call__(self, host: str, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        self.answers.wait(30)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses]


async def give_up(names: Names, resolver: Resolver) -> None:
    """Begin to wait for an address, and stop when the resolver has been asked for it."""
    asking = asyncio.ensure_future(names.find("redis.test"))
    await until(lambda: resolver.asked)
    await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.wait([asking])


async def given_up(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> tuple[Names, threading.Event]:
    """Names whose first lookup was given up, and what lets that one be answered; later ones wait for ``resolver.answers`` again."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(names_module, "STALE_SECONDS", 0.01)
    names = Names()
    await give_up(names, resolver)
    first, resolver.answers = resolver.answers, threading.Event()
    return names, first


async def test_lookups_of_one_name_at_the_same_time_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("10.0.0.1", "10.0.0.2", "10.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    names = Names()
    for _ in range(3):
        await give_up(names, resolver)
    asked = list(resolver.asked)
    resolver.answers.set()
    found = await names.find("redis.test")
    again = await names.find("redis.test")

    assert found == again == ["10.0.0.1", "10.0.0.2"]
    assert asked == ["redis.test"]


async def test_nobody_waits_for_a_lookup_for_which_no_thread_could_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver("10.0.0.1")
    resolver.answers.set()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    names = Names()
    with monkeypatch.context() as failing:
        failing.setattr(_thread, "start_new_thread", fail)
        with pytest.raises(OSError, match="can't start new thread"):
            await names.find("redis.test")

    assert await asyncio.wait_for(names.find("redis.test"), 30) == ["10.0.0.1"]


async def test_a_lookup_whose_thread_finds_no_memory_does_not_stop_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "STALE_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", Resolver())
    names = Names()
    with threads_in_vain(), pytest.raises(TimeoutError):
        await asyncio.wait_for(names.find("redis.test"), 0.1)


async def test_a_look_up_that_takes_long_is_not_waited_for_by_who_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("10.0.0.1")
    names, first = await given_up(resolver, monkeypatch)
    resolver.answers.set()
    second = await names.find("redis.test")
    first.set()  # nobody asks for this answer any more
    await asyncio.sleep(0.05)
    third = await names.find("redis.test")

    assert second == third == ["10.0.0.1"]


async def test_an_address_that_comes_late_serves_those_who_ask_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("10.0.0.1")
    names, first = await given_up(resolver, monkeypatch)
    asking = asyncio.ensure_future(names.find("redis.test"))
    await asyncio.sleep(0)
    first.set()
    async with asyncio.timeout(30):
        found = await asking
    resolver.answers.set()
    again = await names.find("redis.test")

    assert (found, again) == (["10.0.0.1"], ["10.0.0.1"])
    assert eventually(lambda: len(resolver.asked) == 3)  # the thread of the second lookup may begin late


async def test_an_address_that_took_long_to_find_is_not_looked_up_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("10.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(names_module, "SLOW_SECONDS", 0.01)
    monkeypatch.setattr(names_module, "STALE_SECONDS", 60)
    names = Names()
    asking = asyncio.ensure_future(names.find("redis.test"))
    await asyncio.sleep(0.05)
    resolver.answers.set()
    found = [await asking, await names.find("redis.test")]
    asked = len(resolver.asked)
    monkeypatch.setattr(names_module, "STALE_SECONDS", 0.01)
    await asyncio.sleep(0.05)
    found.append(await names.find("redis.test"))

    assert found == [["10.0.0.1"]] * 3
    assert (asked, len(resolver.asked)) == (1, 2)


async def test_a_failure_that_comes_late_does_not_end_a_newer_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    names, first = await given_up(resolver, monkeypatch)
    asking = asyncio.ensure_future(names.find("redis.test"))
    await asyncio.sleep(0)
    first.set()
    await asyncio.sleep(0.05)
    waiting = not asking.done()
    resolver.answers.set()
    with pytest.raises(OSError, match="Temporary failure"):
        await asking

    assert waiting


async def test_a_failure_that_comes_when_nothing_is_looked_up_any_more_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver, wrong = Resolver("10.0.0.1"), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    names, first = await given_up(resolver, monkeypatch)
    resolver.answers.set()
    found = [await names.find("redis.test")]
    addresses, resolver.addresses = resolver.addresses, ()
    first.set()
    await asyncio.sleep(0.05)
    resolver.addresses = addresses
    found.append(await names.find("redis.test"))

    assert found == [["10.0.0.1"]] * 2
    assert wrong == []


async def test_a_name_without_an_address_is_an_error_for_every_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    names = Names()
    asking = [asyncio.ensure_future(names.find("redis.test")) for _ in range(2)]
    await asyncio.sleep(0)
    resolver.answers.set()
    first, second = await asyncio.gather(*asking, return_exceptions=True)

    assert isinstance(first, OSError)
    assert "Temporary failure" in str(first)
    assert first is not second
    assert resolver.asked == ["redis.test"]


async def test_an_address_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")

    assert await Names().find("127.0.0.1") == ["127.0.0.1"]
    assert await Names().find("::1") == ["::1"]


async def test_each_address_of_a_name_is_tried(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("127.0.0.2", "127.0.0.1")  # it listens at the second one only
    resolver.answers.set()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    async with redis_client(redis_url.replace("127.0.0.1", "redis.test")) as client:
        answer = await client.ping()

    assert answer is True


def test_a_loop_that_closes_does_not_wait_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("10.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", resolver)

    async def give_up() -> None:
        async with asyncio.timeout(0.05):
            await Names().find("redis.test")

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())

    assert not resolver.answers.is_set()
    resolver.answers.set()
