"""Whose turn it is: a bounded queue in front of the engines, first come, first served."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from feedback_workloads.serving.errors import busy, draining

LATENCY_WEIGHT = 0.1
"""Weight of the newest request in the running mean of latencies."""

LONGEST_RETRY_SECONDS = 60


class Admission:
    """Lets requests with `capacity` candidates in all run at once, and `queue` more requests wait.

    What runs together is what the engine can batch together: beyond that, requests would only slow each other down,
    and each would hold a decoded picture. Belongs to one event loop.
    """

    def __init__(self, capacity: int, queue: int) -> None:
        self._capacity = capacity
        self._queue = queue
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._mean_seconds = 1.0
        self._open = True
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

    async def finished(self) -> None:
        """Return once nothing waits or runs."""
        await self._idle.wait()

    @asynccontextmanager
    async def turn(self, candidates: int) -> AsyncIterator[None]:
        """Wait until `candidates` may run, and hold their places. Raises ApiError: 503 once closed, 429 when full."""
        if not self._open:
            raise draining()
        cost = min(candidates, self._capacity)
        await self._enter(cost)
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += LATENCY_WEIGHT * (time.monotonic() - began - self._mean_seconds)
            self._leave(cost)

    async def _enter(self, cost: int) -> None:
        if not self._waiting and cost <= self._free:
            self._take(cost)
            return
        if len(self._waiting) >= self._queue:
            raise busy(min(max(math.ceil(self._mean_seconds), 1), LONGEST_RETRY_SECONDS))
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
        if not self._waiting and not self._running:
            self._idle.set()
