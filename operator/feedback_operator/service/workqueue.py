"""Keys to look at: each once however often it was asked for, one worker a key, the patient before the hasty.

Times come from the event loop, so a loop with simulated time tests every delay at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Backoff:
    """How long a key rests after failures in a row: `first` seconds, then `factor` times as long, at most `longest`."""

    first: float = 0.2
    factor: float = 2.0
    longest: float = 30.0

    def seconds(self, failures: int) -> float:
        """The rest after that many failures in a row, from 1."""
        return float(min(self.longest, self.first * self.factor ** min(failures - 1, 64)))


@dataclass(frozen=True)
class Taken:
    """A key to work at, and how many seconds it waited for a worker."""

    key: str
    waited: float


class WorkQueue:
    """Keys in the order in which they were first asked for.

    A key that is asked for while it is worked at comes again once it is finished, behind those that wait already. A key
    has at most one wake-up: the sooner of those asked for since it was last taken.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff: Final = backoff or Backoff()
        self._ready: Final[asyncio.Queue[str]] = asyncio.Queue()
        self._waiting_since: Final[dict[str, float]] = {}
        self._working: Final[set[str]] = set()
        self._again: Final[dict[str, float]] = {}
        self._wake_ups: Final[dict[str, asyncio.TimerHandle]] = {}
        self._failures: Final[dict[str, int]] = {}

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting_since)

    @property
    def working(self) -> int:
        """Keys that are worked at."""
        return len(self._working)

    def add(self, key: str) -> None:
        """Ask for a key now; what it had to wait for, a backoff too, is over."""
        self._forget_wake_up(key)
        now = asyncio.get_running_loop().time()
        if key in self._working:
            self._again.setdefault(key, now)
        elif key not in self._waiting_since:
            self._waiting_since[key] = now
            self._ready.put_nowait(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Ask for a key in so many seconds, or when it is due already, whichever is sooner."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, seconds)
        if key in self._waiting_since or key in self._again:
            return
        planned = self._wake_ups.get(key)
        if planned is None or when < planned.when():
            self._forget_wake_up(key)
            self._wake_ups[key] = loop.call_at(when, self.add, key)

    async def take(self) -> Taken:
        """The next key, once there is one. It must be finished."""
        key = await self._ready.get()
        waited = asyncio.get_running_loop().time() - self._waiting_since.pop(key)
        self._working.add(key)
        return Taken(key, waited)

    def finish(self, key: str, *, wake_after: float | None = None) -> None:
        """The work at a key succeeded; look again after so many seconds, if not asked for before."""
        self._failures.pop(key, None)
        self._release(key, wake_after)

    def fail(self, key: str) -> float:
        """The work at a key failed: it comes again after a rest, of the seconds returned, or once it is asked for."""
        self._failures[key] = self._failures.get(key, 0) + 1
        rest = self._backoff.seconds(self._failures[key])
        self._release(key, rest)
        return rest

    def forget(self, key: str) -> None:
        """The work at a key showed that there is nothing behind it any more."""
        self._failures.pop(key, None)
        self._release(key, None)

    def close(self) -> None:
        """Cancel all wake-ups."""
        for key in list(self._wake_ups):
            self._forget_wake_up(key)

    def _release(self, key: str, wake_after: float | None) -> None:
        self._working.remove(key)
        if (asked := self._again.pop(key, None)) is not None:
            self._waiting_since[key] = asked
            self._ready.put_nowait(key)
        elif wake_after is not None:
            self.add_after(key, wake_after)

    def _forget_wake_up(self, key: str) -> None:
        if wake_up := self._wake_ups.pop(key, None):
            wake_up.cancel()
