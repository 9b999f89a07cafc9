"""When those who are turned away are to come again."""

from __future__ import annotations

import math

LONGEST_SECONDS = 60
"""Clients of OpenAI's heed no longer Retry-After."""

MEMORY = 0.98
"""What a measurement still weighs after the next one: some fifty count."""

LATE_SECONDS = 2.0
"""An appointment is told in whole seconds, rounded up, and then there is the way."""


class Appointments:
    """One after the other, as fast as requests leave the server, beginning when `slack` more have left.

    As long as one is to come, those who keep theirs have to find room: so the queue takes others only up to a part
    of its length (see `Admission`). Times are in seconds of any one clock.
    """

    def __init__(self, slack: int) -> None:
        self._slack = slack
        self._seconds = self._left = 0.0
        self._since: float | None = None
        self._latest = -math.inf

    def leaves(self, now: float, *, busy: bool) -> None:
        """A request was answered; `busy` says whether others wait, so that the time to the next one is measured."""
        if self._since is not None:
            self._seconds = MEMORY * self._seconds + now - self._since
            self._left = MEMORY * self._left + 1
        self._since = now if busy else None

    @property
    def seconds_each(self) -> float:
        """From one request that leaves to the next, while others wait; a second, as long as nothing was measured."""
        return self._seconds / self._left if self._left else 1.0

    def outstanding(self, now: float) -> bool:
        """Whether somebody is still to come."""
        return now < self._latest + LATE_SECONDS

    def make(self, now: float) -> int:
        """Seconds after which one who is turned away is to come again, from 1 to LONGEST_SECONDS."""
        first = now + self._slack * self.seconds_each
        self._latest = min(max(self._latest, first) + self.seconds_each, now + LONGEST_SECONDS)
        return min(max(math.ceil(self._latest - now), 1), LONGEST_SECONDS)
