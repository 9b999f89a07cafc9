"""The only loop: read a snapshot, plan, carry the plan out, write the status."""

from __future__ import annotations

from typing import Protocol

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.planner import Images, Plan, plan
from feedback_operator.resources import Manifest
from feedback_operator.snapshot import Snapshot


class Cluster(Protocol):
    """Where iterations live and Jobs run. `key` names an iteration."""

    async def snapshot(self, key: str) -> Snapshot | None:
        """The iteration and all that belongs to it as they are now; None where there is no such iteration."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Create a child; one of that name already there is as good."""
        ...

    async def suspend(self, namespace: str, job: str, suspended: bool) -> None:
        """Suspend or resume a Job."""
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


async def reconcile(cluster: Cluster, key: str, images: Images) -> Plan | None:
    """Bring one iteration a step closer to what its spec says, and return what was decided; None if it is gone."""
    world = await cluster.snapshot(key)
    if world is None:
        return None
    decided = plan(world, images)
    namespace = world.iteration.metadata.namespace
    for manifest in decided.create:
        await cluster.create(manifest)
    for job, suspended in decided.suspend:
        await cluster.suspend(namespace, job, suspended)
    for job in decided.delete:
        await cluster.delete(namespace, job)
    for manifest in decided.apply:
        await cluster.apply(manifest)
    if decided.status != world.iteration.status:
        await cluster.write_status(world.iteration, decided.status)
    return decided
