"""The queue in front of the engines: order, bounds, cancelled requests, closing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import openai
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
    assert not requests.admission.is_open
    finished = asyncio.create_task(requests.admission.finished())
    await requests.end("a")
    assert requests.began == ["a", "b"]
    assert not finished.done()
    await requests.end("b")
    await asyncio.wait_for(finished, 1)


async def test_what_still_arrives_is_waited_for_and_gets_its_turn() -> None:
    admission = Admission(capacity=1, queue=3)
    with admission.held():
        admission.close()
        finished = asyncio.create_task(admission.finished())
        async with admission.turn(1):
            pass
        await settle()
        assert not finished.done()
    await asyncio.wait_for(finished, 1)


# ── twice as much as the server can do ───────────────────────────────────────────────────────────────────────────────


class Simulated(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next thing that is due, so that minutes take no time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


TRIES = 1 + openai.DEFAULT_MAX_RETRIES


async def overload(capacity: int, seconds: float, queue: int, seed: int) -> tuple[int, int, float]:
    """For a minute twice as many requests as `capacity` at once, of about `seconds` each, can do.

    Returns how many there were, how many were answered, and when the last of them was.
    """
    admission, chance, loop = Admission(capacity, queue), random.Random(seed), asyncio.get_running_loop()
    rate = 2 * capacity / seconds
    arrivals = [chance.uniform(0, 60) for _ in range(round(60 * rate))]

    async def client(arrival: float) -> bool:
        await asyncio.sleep(arrival)
        for tried in range(TRIES):
            try:
                async with admission.turn(1, again=tried > 0):
                    await asyncio.sleep(seconds * chance.uniform(0.5, 1.5))
                    return True
            except ApiError as error:
                wait = int(error.headers["Retry-After"])
                assert 0 < wait <= 60  # openai's clients heed nothing else
                await asyncio.sleep(wait)
        return False

    answered = sum(await asyncio.gather(*map(client, arrivals)))
    return len(arrivals), answered, loop.time()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("capacity", "seconds"),
    [
        pytest.param(1, 1.0, id="one at a time"),
        pytest.param(8, 4.0, id="several"),
        pytest.param(16, 1.0, id="many, quickly"),
        pytest.param(64, 20.0, id="many, slowly"),
    ],
)
def test_twice_the_capacity_for_a_minute_is_answered_to_clients_that_come_again(
    capacity: int, seconds: float, seed: int
) -> None:
    with asyncio.Runner(loop_factory=Simulated) as runner:
        sent, answered, end = runner.run(overload(capacity, seconds, 64, seed))
    assert answered == sent
    assert end < 60 + 60 * 1.25 + 2 * seconds  # what two minutes can do takes little longer


def test_clients_that_never_come_again_cost_no_capacity() -> None:
    """Places that are kept for those who were turned away are not kept for ever, and half of the queue is enough."""

    async def answered() -> float:
        admission, loop = Admission(4, 8), asyncio.get_running_loop()

        async def client(arrival: float) -> bool:
            await asyncio.sleep(arrival)
            try:
                async with admission.turn(1):
                    await asyncio.sleep(1)
            except ApiError:
                return False
            return True

        done = await asyncio.gather(*(client(number / 12) for number in range(12 * 60)))
        return sum(done) / loop.time()

    with asyncio.Runner(loop_factory=Simulated) as runner:
        assert runner.run(answered()) > 0.95 * 4
