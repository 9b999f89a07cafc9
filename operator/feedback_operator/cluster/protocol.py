"""What the reconciler asks of the place where iterations live: an API server, or this machine."""

from __future__ import annotations

from typing import Protocol

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.plan.snapshot import Snapshot
from feedback_operator.resources import Manifest


class Cluster(Protocol):
    """Where iterations live and Jobs run. `key` names an iteration."""

    async def snapshot(self, key: str) -> Snapshot | None:
        """The iteration and all that belongs to it as they are now; None where there is no such iteration."""
        ...

    async def read_pods(self, namespace: str, job: str) -> None:
        """Have the next snapshot show all pods of a Job that has ended as they are, whatever was seen of them."""
        ...

    async def ask(self, namespace: str, job: str) -> None:
        """Have the next snapshot show what the cluster says of why a Job has no pods, or not all of them."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Create a child; one of that name already there is as good."""
        ...

    async def suspend(self, namespace: str, job: str, suspended: bool) -> None:
        """Suspend a Job, with a mark on it that it was we who did; or resume it and take the mark away."""
        ...

    async def adjust(self, namespace: str, job: str, deadline: int | None, ttl: int | None) -> None:
        """Give a Job another deadline and another time to live, in seconds; None leaves what it has."""
        ...

    async def delete(self, namespace: str, job: str) -> None:
        """Delete a Job and then its pods, in the foreground; one that is gone is as good."""
        ...

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply."""
        ...

    async def write_status(self, iteration: FeedbackIteration, status: IterationStatus) -> None:
        """Replace the status of the iteration that was planned for; of a later version of it, nothing."""
        ...


class Blocked(Exception):
    """The cluster refuses what the plan asks for. `reason` is CamelCase for conditions; the message says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
