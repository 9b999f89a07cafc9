"""The only loop: read a snapshot, plan, carry the plan out, write the status."""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.cluster.protocol import Blocked, Cluster
from feedback_operator.plan.blocked import blocked
from feedback_operator.plan.planner import Images, Plan, plan
from feedback_operator.plan.snapshot import Snapshot


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
    if decided.read or decided.ask:
        for job in decided.read:
            await cluster.read_pods(world.iteration.metadata.namespace, job)
        for job in decided.ask:
            await cluster.ask(world.iteration.metadata.namespace, job)
        world = await cluster.snapshot(key) or world
        decided = plan(world, images)
    refusal = await _carry_out(cluster, world.iteration.metadata.namespace, decided)
    if decided.create or decided.apply:  # what was just made is in the status at once, not in a second one
        world = await cluster.snapshot(key) or world
        decided = replace(plan(world, images), create=decided.create)
    status = _with_refusal(decided.status, refusal, world) if refusal else decided.status
    if status != world.iteration.status:
        await cluster.write_status(world.iteration, status)
    return Reconciled(world.iteration, decided, status, refusal)


async def _carry_out(cluster: Cluster, namespace: str, decided: Plan) -> Blocked | None:
    """The first refusal. Each object of an endpoint stands for itself: one that is refused keeps no other away."""
    refusal = await _carry_out_jobs(cluster, namespace, decided)
    for manifest in decided.apply:
        try:
            await cluster.apply(manifest)
        except Blocked as refused:
            refusal = refusal or refused
    return refusal


async def _carry_out_jobs(cluster: Cluster, namespace: str, decided: Plan) -> Blocked | None:
    try:
        for manifest in decided.create:
            await cluster.create(manifest)
        for job, suspended in decided.suspend:
            await cluster.suspend(namespace, job, suspended)
        for job, deadline, ttl in decided.adjust:
            await cluster.adjust(namespace, job, deadline, ttl)
        for job in decided.delete:
            await cluster.delete(namespace, job)
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
