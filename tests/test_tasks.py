"""Background work that goes on together: its end is never silent, and leaves nothing running."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway.tasks import until_one_ends


class Works:
    """Two that go on for ever, and one that fails, returns or is cancelled when told."""

    def __init__(self) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running = 0

    async def go_on(self) -> None:
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.running -= 1

    async def end_when_told(self) -> None:
        await self.end

    async def start(self) -> asyncio.Task[None]:
        together = asyncio.ensure_future(until_one_ends(self.go_on(), self.end_when_told(), self.go_on()))
        for _ in range(2):
            await asyncio.sleep(0)
        assert self.running == 2
        return together


async def test_the_error_of_one_ends_the_others_and_is_raised() -> None:
    works = Works()
    together = await works.start()
    works.end.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await together

    assert works.running == 0


@pytest.mark.parametrize("cancelled", [True, False])
async def test_the_end_of_one_without_an_error_is_an_error(cancelled: bool) -> None:
    works = Works()
    together = await works.start()
    if cancelled:
        works.end.cancel()
    else:
        works.end.set_result(None)
    with pytest.raises(RuntimeError, match=r"Works\.end_when_told has ended"):
        await together

    assert works.running == 0


async def test_when_their_owner_is_cancelled_all_are() -> None:
    works = Works()
    together = await works.start()
    together.cancel()
    await asyncio.wait([together])

    assert together.cancelled()
    assert works.running == 0


async def test_the_error_of_one_that_is_ended_with_the_others_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_when_ended() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError

    with pytest.raises(RuntimeError):
        await until_one_ends(fail_when_ended(), asyncio.sleep(0))
    gc.collect()  # asyncio logs an error that nobody has retrieved when its task is collected

    assert not caplog.records
