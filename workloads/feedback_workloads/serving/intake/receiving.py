"""What is being received: bodies and fetched pictures, bounded by the bytes that are there, not by who sends them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from feedback_workloads.serving.errors import crowded, too_slow

RECEIVE_SECONDS = 60.0

Arrived = Callable[[int], None]
"""Told of each piece that a request brings, in bytes."""


@dataclass(eq=False)
class _Arriving:
    """One request: who sends it, the bytes of it that are there, since when, and when it has to be complete."""

    client: str
    since: float
    deadline: asyncio.Timeout
    size: int = 0
    turned_away: bool = False

    def held(self, now: float) -> int:
        """How much it is in the way: bytes times microseconds."""
        return round(self.size * (now - self.since) * 1e6)


class Receiving:
    """Lets any number of requests arrive side by side, as long as what is there of them is `capacity` bytes in all.

    A client that sends slowly, or a picture's host that answers slowly, holds what has come of it and nothing else, so
    that however many of them there are, they are in nobody's way. Where the bytes become too many, the client that has
    held the most for the longest, over all its requests, loses the one of them of which that is true: who sends much
    slowly is in his own way. Belongs to one event loop.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._arriving: set[_Arriving] = set()

    @asynccontextmanager
    async def request(self, client: str) -> AsyncIterator[Arrived]:
        """Receive a request of `client` within. Raises ApiError: 408 when it takes too long, 429 when turned away."""
        one = _Arriving(client, asyncio.get_running_loop().time(), asyncio.timeout(RECEIVE_SECONDS))
        try:
            async with one.deadline:
                self._arriving.add(one)
                try:
                    yield lambda size: self._arrived(one, size)
                finally:
                    self._forget(one)
        except TimeoutError as error:
            raise crowded() if one.turned_away else too_slow(RECEIVE_SECONDS) from error

    def _arrived(self, one: _Arriving, size: int) -> None:
        if one.turned_away:
            return
        one.size += size
        self._size += size
        now = asyncio.get_running_loop().time()
        while self._size > self._capacity:
            worst = self._worst(now)
            worst.turned_away = True
            worst.deadline.reschedule(now)
            self._forget(worst)

    def _worst(self, now: float) -> _Arriving:
        held: Counter[str] = Counter()
        for one in self._arriving:
            held[one.client] += one.held(now)
        return max(self._arriving, key=lambda one: (held[one.client], one.held(now)))

    def _forget(self, one: _Arriving) -> None:
        if one in self._arriving:
            self._arriving.remove(one)
            self._size -= one.size
