"""The work queue, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_operator.service.workqueue import Backoff, WorkQueue
from tests.unit.simulated_time import simulate

Story = Callable[[WorkQueue], Awaitable[None]]


def tell(story: Story, backoff: Backoff | None = None) -> None:
    async def run() -> None:
        queue = WorkQueue(backoff)
        await story(queue)
        queue.close()

    simulate(run())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_key_asked_for_often_comes_once() -> None:
    async def story(queue: WorkQueue) -> None:
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert len(queue) == 2
        assert [(await queue.take()).key for _ in range(2)] == ["a", "b"]
        assert (len(queue), queue.working) == (0, 2)

    tell(story)


def test_a_key_that_is_worked_at_is_given_to_nobody_else_and_comes_again_behind_the_others() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        await queue.take()
        queue.add("a")
        queue.add("b")
        assert (await queue.take()).key == "b"
        queue.finish("a")
        assert (await queue.take()).key == "a"

    tell(story)


def test_waited_counts_from_the_first_time_that_it_was_asked_for() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        await asyncio.sleep(3)
        queue.add("a")
        assert (await queue.take()).waited == 3
        queue.add("a")
        await asyncio.sleep(2)
        queue.finish("a")
        assert (await queue.take()).waited == 2

    tell(story)


def test_a_key_comes_back_when_time_alone_makes_it_due() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        await queue.take()
        queue.finish("a", wake_after=60)
        await queue.take()
        assert now() == 60

    tell(story)


@pytest.mark.parametrize("delays", [(60, 5), (5, 60), (5,), (5, 5)])
def test_of_several_wake_ups_the_soonest_counts(delays: tuple[float, ...]) -> None:
    async def story(queue: WorkQueue) -> None:
        for delay in delays:
            queue.add_after("a", delay)
        await queue.take()
        assert now() == 5
        queue.finish("a")
        await asyncio.sleep(100)
        assert len(queue) == 0

    tell(story)


def test_failures_back_off_and_success_forgives_them() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        rests = []
        for _ in range(6):
            await queue.take()
            rests.append(queue.fail("a"))
        await queue.take()
        queue.finish("a", wake_after=0)
        await queue.take()
        rests.append(queue.fail("a"))
        assert rests == [1, 2, 4, 8, 10, 10, 1]

    tell(story, Backoff(first=1, factor=2, longest=10))


def test_news_end_a_backoff() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        await queue.take()
        queue.fail("a")
        queue.add("a")
        assert (await queue.take()).waited == 0
        assert now() == 0

    tell(story, Backoff(first=100))


def test_news_during_the_work_come_at_once_even_if_the_work_failed() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        await queue.take()
        queue.add("a")
        queue.fail("a")
        await queue.take()
        assert now() == 0

    tell(story, Backoff(first=100))


def test_a_failing_key_does_not_hold_up_others() -> None:
    async def story(queue: WorkQueue) -> None:
        done: list[str] = []

        async def work() -> None:
            while True:
                key = (await queue.take()).key
                await asyncio.sleep(0.01)
                if key == "bad":
                    queue.fail(key)
                else:
                    done.append(key)
                    queue.finish(key)

        worker = asyncio.create_task(work())
        queue.add("bad")
        for number in range(100):
            queue.add(f"good-{number}")
        await asyncio.sleep(2)
        worker.cancel()
        assert done == [f"good-{number}" for number in range(100)]

    tell(story)


def test_a_forgotten_key_starts_anew() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add("a")
        await queue.take()
        queue.fail("a")
        await queue.take()
        queue.forget("a")
        queue.add("a")
        await queue.take()
        assert queue.fail("a") == 1

    tell(story, Backoff(first=1))


Step = tuple[str, str, float]
steps = st.lists(
    st.tuples(st.sampled_from(["add", "later", "ok", "fail"]), st.sampled_from("abc"), st.floats(0, 20)), max_size=60
)


@given(steps)
def test_no_key_is_ever_lost_or_given_out_twice(story: list[Step]) -> None:
    """After any history, every key that was asked for since it was last finished comes within the longest delay."""

    async def run(queue: WorkQueue) -> None:
        working: set[str] = set()
        owed: set[str] = set()
        for step, key, seconds in story:
            if step == "add":
                queue.add(key)
                owed.add(key)
            elif step == "later":
                queue.add_after(key, seconds)
                owed.add(key)
            elif key in working:
                working.remove(key)
                if step == "ok":
                    queue.finish(key)
                else:
                    queue.fail(key)
                    owed.add(key)
            while len(queue):
                taken = await queue.take()
                assert taken.key not in working
                working.add(taken.key)
                owed.discard(taken.key)
        for key in working:
            queue.finish(key)
        await asyncio.sleep(21)
        left = {(await queue.take()).key for _ in range(len(queue))}
        assert owed <= left

    tell(run, Backoff(first=1, longest=20))
