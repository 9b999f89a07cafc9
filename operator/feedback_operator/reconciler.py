"""The only loop: read a snapshot, plan, carry the plan out, write the status."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.blocked import blocked
from feedback_operator.planner import Images, Plan, plan
from feedback_operator.resources import Manifest
from feedback_operator.snapshot import Snapshot


class Cluster(Protocol):
    """Where iterations live and Jobs run. `key` names an iteration."""

    async def snapshot(self, key: str) -> Snapshot | None:
        """The iteration and all that belongs to it as they are now; None where there is no such iteration."""
        ...

    async def read_pods(self, namespace: str, job: str) -> None:
        """Have the next snapshot show all pods of a Job that has ended as they are, whatever was seen of them."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Create a child; one of that name already there is as good."""
        ...

    async def suspend(self, namespace: str, job: str, suspended: bool) -> None:
        """Suspend a Job, with a mark on it that it was we who did; or resume it and take the mark away."""
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


@dataclass(frozen=True)
class Reconciled:
    """What was found, what was decided, the status that was recorded, and whether the cluster refused a part of it."""

    found: FeedbackIteration
    plan: Plan
    status: IterationStatus
    refusal: Blocked | None = None


async def reconcile(cluster: Cluster, key: str, images: Images) -> Reconciled | None:
    """Bring one iteration a step closer to what its spec says; None where there is no iteration to work with."""
    world = await cluster.snapshot(key)
    if world is None:
        return None
    decided = plan(world, images)
    if decided.read:
        for job in decided.read:
            await cluster.read_pods(world.iteration.metadata.namespace, job)
        world = await cluster.snapshot(key) or world
        decided = plan(world, images)
    refusal = await _carry_out(cluster, world.iteration.metadata.namespace, decided)
    if decided.create and not refusal:  # what was just created is in the status at once, not in a second one
        world = await cluster.snapshot(key) or world
        decided = replace(plan(world, images), create=decided.create)
    status = _with_refusal(decided.status, refusal, world) if refusal else decided.status
    if status != world.iteration.status:
        await cluster.write_status(world.iteration, status)
    return Reconciled(world.iteration, decided, status, refusal)


async def _carry_out(cluster: Cluster, namespace: str, decided: Plan) -> Blocked | None:
    try:
        for manifest in decided.create:
            await cluster.create(manifest)
        for job, suspended in decided.suspend:
            await cluster.suspend(namespace, job, suspended)
        for job in decided.delete:
            await cluster.delete(namespace, job)
        for manifest in decided.apply:
            await cluster.apply(manifest)
    except Blocked as refusal:
        return refusal
    return None


def _with_refusal(status: IterationStatus, refusal: Blocked, world: Snapshot) -> IterationStatus:
    return blocked(
        status,
        refusal.reason,
        str(refusal),
        before=world.iteration.status.conditions,
        generation=world.iteration.metadata.generation,
        now=world.now,
    )
