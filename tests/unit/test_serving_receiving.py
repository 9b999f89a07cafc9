"""What may be received at once: bytes are bounded, and those who send slowly are in nobody's way."""

from __future__ import annotations

import asyncio

import pytest

from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.intake import receiving
from feedback_workloads.serving.intake.receiving import Arrived, Receiving


class Sender:
    """A client whose request is being received until it is told to end."""

    def __init__(self, to: Receiving, client: str = "client") -> None:
        self._client = client
        self._begun: asyncio.Future[Arrived] = asyncio.get_running_loop().create_future()
        self._complete = asyncio.Event()
        self.task = asyncio.create_task(self._receive(to))

    async def _receive(self, to: Receiving) -> None:
        async with to.request(self._client) as arrived:
            self._begun.set_result(arrived)
            await self._complete.wait()

    async def sends(self, size: int) -> None:
        (await self._begun)(size)

    async def ends(self) -> None:
        self._complete.set()
        await self.task

    async def error(self) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.task
        return caught.value


class Clock:
    """The loop's clock, which moves when it is told to, so that no machine is too slow for what is tried."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time()

    def __call__(self) -> float:
        return self._now

    def passes(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    return clock


async def test_any_number_of_clients_that_send_next_to_nothing_leave_room_for_others() -> None:
    room = Receiving(capacity=1000)
    slow = [Sender(room) for _ in range(500)]
    for one in slow:
        await one.sends(1)
    other = Sender(room)
    await other.sends(500)
    await other.ends()
    for one in slow:
        await one.ends()


async def test_where_the_bytes_are_too_many_the_slowest_large_one_goes(clock: Clock) -> None:
    room = Receiving(capacity=1000)
    small, large = Sender(room), Sender(room)
    await small.sends(10)
    await large.sends(600)
    clock.passes(1)
    quick = Sender(room)
    await quick.sends(500)
    error = await large.error()
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "rate_limit_exceeded", "1")
    await quick.ends()
    await small.ends()


async def test_a_client_with_many_slow_requests_goes_before_others_with_a_larger_one(clock: Clock) -> None:
    room = Receiving(capacity=1000)
    other = Sender(room, "other")
    await other.sends(300)
    slow = [Sender(room, "slow") for _ in range(4)]
    for one in slow:
        await one.sends(100)
    clock.passes(1)
    await slow[0].sends(50)
    quick = Sender(room, "quick")
    await quick.sends(300)
    assert (await slow[0].error()).code == "rate_limit_exceeded"
    for one in (other, quick, *slow[1:]):
        await one.ends()


async def test_what_was_turned_away_counts_no_more(clock: Clock) -> None:
    room = Receiving(capacity=1000)
    large = Sender(room)
    await large.sends(600)
    clock.passes(1)
    quick = Sender(room)
    await quick.sends(900)
    await large.sends(600)  # it was not told yet
    await quick.sends(100)
    await quick.ends()
    assert (await large.error()).status == 429
    whole = Sender(room)
    await whole.sends(1000)
    await whole.ends()


async def test_a_request_of_any_size_alone_that_is_too_large_is_turned_away() -> None:
    only = Sender(Receiving(capacity=1000))
    await only.sends(1001)
    assert (await only.error()).status == 429


async def test_a_request_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "RECEIVE_SECONDS", 0.0)
    error = await Sender(Receiving(capacity=1000)).error()
    assert (error.status, error.code) == (408, "request_timeout")
