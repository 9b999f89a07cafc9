"""The queue in front of the engines: order, bounds, cancelled requests, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.intake.admission import Admission


class Requests:
    """Requests that hold their turn until they are told to end, and a record of when each began."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.began: list[str] = []
        self._end: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, name: str, candidates: int) -> None:
        self._end[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._run(name, candidates))
        await settle()

    async def _run(self, name: str, candidates: int) -> None:
        async with self.admission.turn(candidates):
            self.began.append(name)
            await self._end[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self._end[name].set()
        await asyncio.gather(*(self._tasks[name] for name in names))
        await settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)

    async def error(self, name: str) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self._tasks[name]
        return caught.value


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_runs_together_what_fits_and_the_rest_in_order() -> None:
    requests = Requests(Admission(capacity=8, queue=10))
    for name, candidates in (("a", 4), ("b", 4), ("c", 8), ("d", 1)):
        await requests.send(name, candidates)
    assert requests.began == ["a", "b"]
    assert (requests.admission.running, requests.admission.waiting) == (2, 2)
    await requests.end("a")
    assert requests.began == ["a", "b"]  # d would fit, but it is c's turn
    await requests.end("b")
    assert requests.began == ["a", "b", "c"]
    await requests.end("c")
    await requests.end("d")
    await asyncio.wait_for(requests.admission.finished(), 1)


async def test_more_candidates_than_the_capacity_run_alone() -> None:
    requests = Requests(Admission(capacity=8, queue=10))
    await requests.send("wide", 64)
    await requests.send("next", 1)
    assert requests.began == ["wide"]
    await requests.end("wide", "next")


async def test_full_queue() -> None:
    requests = Requests(Admission(capacity=1, queue=1))
    for name in "abc":
        await requests.send(name, 1)
    error = await requests.error("c")
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(error.headers["Retry-After"]) <= 60
    await requests.end("a", "b")


@pytest.mark.parametrize("gone", [("b",), ("c",), ("b", "c"), ("a",), ("a", "c")])
async def test_those_who_leave_hold_no_place(gone: Sequence[str]) -> None:
    requests = Requests(Admission(capacity=1, queue=3))
    for name in "abcd":
        await requests.send(name, 1)
    for name in gone:
        await requests.cancel(name)
    await settle()
    for name in sorted(set("abcd") - set(gone)):
        await requests.end(name)
    assert requests.began == ["a", *sorted(set("bcd") - set(gone))]
    assert (requests.admission.running, requests.admission.waiting) == (0, 0)
    await asyncio.wait_for(requests.admission.finished(), 1)


async def test_leaving_in_the_moment_of_the_turn() -> None:
    requests = Requests(Admission(capacity=1, queue=3))
    for name in "abc":
        await requests.send(name, 1)
    requests._end["a"].set()
    requests._tasks["b"].cancel()  # before a's end is noticed
    await settle()
    assert requests.began == ["a", "c"]
    await requests.end("c")
    assert requests.admission.running == 0


async def test_a_smaller_request_gets_its_turn_when_a_larger_one_leaves_the_queue() -> None:
    requests = Requests(Admission(capacity=4, queue=3))
    for name, candidates in (("a", 3), ("b", 4), ("c", 1)):
        await requests.send(name, candidates)
    await requests.cancel("b")
    await settle()
    assert requests.began == ["a", "c"]
    await requests.end("a", "c")


async def test_closed_finishes_what_it_has() -> None:
    requests = Requests(Admission(capacity=1, queue=3))
    await requests.send("a", 1)
    await requests.send("b", 1)
    requests.admission.close()
    await requests.send("c", 1)
    assert (await requests.error("c")).status == 503
    finished = asyncio.create_task(requests.admission.finished())
    await requests.end("a")
    assert requests.began == ["a", "b"]
    assert not finished.done()
    await requests.end("b")
    await asyncio.wait_for(finished, 1)
