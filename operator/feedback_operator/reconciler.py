"""The only loop: read a snapshot, plan, carry the plan out, write the status."""

from __future__ import annotations

from typing import Protocol

from feedback_operator.api import IterationStatus
from feedback_operator.planner import Images, Plan, plan
from feedback_operator.resources import Manifest
from feedback_operator.snapshot import Snapshot


class Cluster(Protocol):
    """Where iterations live and Jobs run. `key` names an iteration."""

    async def snapshot(self, key: str) -> Snapshot:
        """The iteration and its children as they are now."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Create a child; one of that name already there is as good."""
        ...

    async def suspend(self, job: str, suspended: bool) -> None:
        """Suspend or resume a Job."""
        ...

    async def write_status(self, key: str, status: IterationStatus) -> None:
        """Replace the iteration's status."""
        ...


async def reconcile(cluster: Cluster, key: str, images: Images) -> Plan:
    """Bring one iteration a step closer to what its spec says, and return what was decided."""
    world = await cluster.snapshot(key)
    decided = plan(world, images)
    for manifest in decided.create:
        await cluster.create(manifest)
    for job, suspended in decided.suspend:
        await cluster.suspend(job, suspended)
    if decided.status != world.iteration.status:
        await cluster.write_status(key, decided.status)
    return decided
