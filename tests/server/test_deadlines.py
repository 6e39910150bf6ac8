"""Deadlines: one timer for many of the same length."""

from __future__ import annotations

import asyncio

from gateway.server.deadlines import Deadlines


async def test_missed_deadlines_are_reported_in_order_and_met_ones_are_not() -> None:
    told: list[str] = []
    over = asyncio.Event()

    def late(who: str, _: Deadlines[str]) -> None:
        told.append(who)
        if who == "last":
            over.set()

    deadlines = Deadlines(asyncio.get_running_loop(), 0.05, late)
    for who in ("first", "in time", "again", "second"):
        deadlines.add(who)
    deadlines.remove("in time")
    deadlines.remove("never there")
    deadlines.add("again")  # its time starts again
    deadlines.add("last")

    async with asyncio.timeout(30):
        await over.wait()
    assert told == ["first", "second", "again", "last"]


async def test_a_later_deadline_has_its_whole_time() -> None:
    loop = asyncio.get_running_loop()
    ended: dict[str, float] = {}
    over = asyncio.Event()

    def late(who: str, _: Deadlines[str]) -> None:
        ended[who] = loop.time()
        if who == "later":
            over.set()

    deadlines = Deadlines(loop, 0.2, late)
    deadlines.add("sooner")
    await asyncio.sleep(0.1)
    begun = loop.time()
    deadlines.add("later")

    async with asyncio.timeout(30):
        await over.wait()
    assert ended["later"] - begun >= 0.19
    assert ended["sooner"] < ended["later"]


async def test_a_callback_that_fails_does_not_delay_others() -> None:
    loop = asyncio.get_running_loop()
    failed: list[object] = []
    loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
    over = asyncio.Event()

    def late(who: str, _: Deadlines[str]) -> None:
        if who == "bad":
            raise OSError(who)
        over.set()

    deadlines = Deadlines(loop, 0.02, late)
    deadlines.add("bad")
    deadlines.add("good")

    async with asyncio.timeout(30):
        await over.wait()
    assert [str(error) for error in failed] == ["bad"]
