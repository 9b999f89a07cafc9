"""Whose turn it is: a bounded queue in front of the engines, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from feedback_workloads.serving.errors import busy
from feedback_workloads.serving.intake.appointments import Appointments


class Admission:
    """Lets requests with `capacity` candidates in all run at once, and `queue` more requests wait.

    What runs together is what the engine can batch together: beyond that, requests would only slow each other down,
    and each would hold a decoded picture. Who finds the queue full is told when to come again, as fast as requests
    leave; until all of them were to come, half of the queue is theirs. Belongs to one event loop.
    """

    def __init__(self, capacity: int, queue: int) -> None:
        self._capacity = capacity
        self._queue = queue
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._appointments = Appointments(slack=queue // 4)
        self._open = True
        self._held = 0
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests whose turn it is."""
        return self._running

    @property
    def is_open(self) -> bool:
        return self._open

    def close(self) -> None:
        """Take nothing new; what was accepted, waiting or running, is finished."""
        self._open = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, a request is at work that `finished` waits for, whether it still arrives, waits, runs or is told."""
        self._held += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._held -= 1
            self._settle()

    async def finished(self) -> None:
        """Return once nothing is held, waits or runs."""
        await self._idle.wait()

    @asynccontextmanager
    async def turn(self, candidates: int, *, again: bool = False) -> AsyncIterator[None]:
        """Wait until `candidates` may run, and hold their places. Raises ApiError (429) when the queue is full.

        `again` says that the client was turned away before.
        """
        cost = min(candidates, self._capacity)
        await self._enter(cost, again)
        try:
            yield
        finally:
            self._appointments.leaves(_now(), busy=bool(self._waiting))
            self._leave(cost)

    async def _enter(self, cost: int, again: bool) -> None:
        if not self._waiting and cost <= self._free:
            self._take(cost)
            return
        kept = 0 if again or not self._appointments.outstanding(_now()) else self._queue // 2
        if len(self._waiting) >= self._queue - kept:
            raise busy(self._appointments.make(_now()))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, turn))
        self._idle.clear()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # not there when _advance came by before we did
                    self._waiting.remove((cost, turn))
                self._advance()  # the next in line may be smaller
            else:
                self._leave(cost)  # its turn came in the moment it gave up
            raise

    def _take(self, cost: int) -> None:
        self._free -= cost
        self._running += 1
        self._idle.clear()

    def _leave(self, cost: int) -> None:
        self._free += cost
        self._running -= 1
        self._advance()

    def _advance(self) -> None:
        """Give their turn to those at the head of the queue who fit."""
        while self._waiting:
            cost, turn = self._waiting[0]
            if not turn.cancelled() and cost > self._free:
                break
            self._waiting.popleft()
            if not turn.cancelled():
                self._take(cost)
                turn.set_result(None)
        self._settle()

    def _settle(self) -> None:
        if not self._waiting and not self._running and not self._held:
            self._idle.set()


def _now() -> float:
    return asyncio.get_running_loop().time()
