"""What should exist next, given what exists now. Pure: no I/O, no clock, no randomness.

The plan follows from the spec, the recorded status, the observed Jobs and the time in the snapshot, so planning twice,
or again after a crash in the middle of carrying a plan out, comes to the same end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from feedback_operator.api import IterationStatus
from feedback_operator.api.status import moment_of
from feedback_operator.plan.blocked import blocked
from feedback_operator.plan.conditions import gate_result, promoted_model, status_of
from feedback_operator.plan.endpoint import EndpointPlan, endpoint_plan
from feedback_operator.plan.missing_pods import asks_at
from feedback_operator.plan.observe import observe
from feedback_operator.plan.snapshot import Job, Snapshot
from feedback_operator.plan.states import (
    Done,
    Failed,
    Progress,
    Replacing,
    Retrying,
    Running,
    Startable,
    Waiting,
    is_live,
)
from feedback_operator.resources import Manifest
from feedback_operator.resources.configmap import build_configmap
from feedback_operator.resources.headless_service import build_headless_service
from feedback_operator.resources.job import StageRun, build_job
from feedback_operator.resources.networkpolicy import build_stages_policy
from feedback_operator.stages import Image, stages_of

Images = Mapping[Image, str]
"""Container image of each kind of stage."""


PODS_END: Final = timedelta(seconds=60)
"""Pods whose results are in have so long to end by themselves."""


@dataclass(frozen=True)
class Plan:
    """What to do, in this order; carrying it out twice, or half and then again, comes to the same.

    `create`: Jobs, ConfigMaps, headless Services and NetworkPolicies; once, one of that name is as good.
    `suspend`: Jobs by name, to suspend (True) or to resume.
    `adjust`: Jobs by name whose deadline and time to live, in seconds, are to be these; None leaves the Job's own.
    `delete`: Jobs by name, in the foreground (they stay visible until their pods are gone); gone is as good.
    `apply`: Deployment, Service, PodDisruptionBudget and NetworkPolicy of the endpoint, by server-side apply, forced;
        only those that differ from what was observed.
    `status`: to write if it differs from the iteration's.
    `wake_at`: the next moment at which time alone changes the plan.
    `read`: Jobs by name that have ended and whose pods have to be read before anything follows from it. That comes
        first, and then another plan in the place of this one.
    `ask`: Jobs by name of which the cluster has to be asked why they have no pods, or not all; likewise.
    """

    create: tuple[Manifest, ...]
    suspend: tuple[tuple[str, bool], ...]
    status: IterationStatus
    adjust: tuple[tuple[str, int | None, int | None], ...] = ()
    delete: tuple[str, ...] = ()
    apply: tuple[Manifest, ...] = ()
    wake_at: datetime | None = None
    read: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()


def plan(world: Snapshot, images: Images) -> Plan:
    """Decide everything for one iteration. One that is being deleted is left alone: what it owns goes with it."""
    if world.iteration.metadata.deletion_timestamp:
        return Plan(create=(), suspend=(), status=world.iteration.status)
    if broken := world.house.broken_by(world.iteration):
        return Plan(create=(), suspend=(), status=_not_allowed(world, broken))
    progress = observe(world)
    gate = gate_result(world, progress)
    promoted = promoted_model(world, progress, gate, images["generate"])
    endpoint = endpoint_plan(world, promoted)
    return Plan(
        create=_creations(world, progress, images),
        suspend=_suspensions(world, progress),
        adjust=_adjustments(world),
        delete=_deletions(world, progress),
        apply=endpoint.apply,
        status=status_of(world, progress, gate, promoted, endpoint),
        wake_at=_wake_at(world, progress, endpoint),
        read=_unread(world, progress),
        ask=_unasked(world, progress),
    )


def _not_allowed(world: Snapshot, message: str) -> IterationStatus:
    """What was made goes on, and nothing is added to it."""
    iteration = world.iteration
    return blocked(
        iteration.status,
        "NotAllowed",
        message,
        before=iteration.status.conditions,
        generation=iteration.metadata.generation,
        now=world.now,
    )


def _creations(world: Snapshot, progress: Mapping[str, Progress], images: Images) -> tuple[Manifest, ...]:
    """Jobs of the stages that may start, each after what its pods need."""
    spec, owner = world.iteration.spec, world.iteration.metadata
    if spec.suspend or any(isinstance(state, Failed) for state in progress.values()):
        return ()
    manifests: list[Manifest] = []
    for stage in stages_of(spec):
        state = progress[stage.name]
        if isinstance(state, Startable):
            run = StageRun(
                owner=owner,
                stage=stage,
                section=stage.section(spec),
                keys=stage.keys(spec),
                config=state.config,
                address=state.address,
                attempt=state.attempt,
                retries=state.retries,
                reached=state.reached,
                pods=stage.pods(spec),
                image=images[stage.image],
                deadline_seconds=spec.deadline_seconds,
                ttl_seconds_after_finished=spec.ttl_seconds_after_finished,
            )
            manifests += [
                build_configmap(run),
                *([build_headless_service(run)] if run.pods_meet else []),
                build_job(run),
            ]
    if manifests and not world.jobs:
        manifests.insert(0, build_stages_policy(owner))
    return tuple(world.house.followed(manifest, owner) for manifest in manifests)


def _suspensions(world: Snapshot, progress: Mapping[str, Progress]) -> tuple[tuple[str, bool], ...]:
    """Suspended, all Jobs are; otherwise those that are the state of their stage run.

    Only what we have suspended ourselves is resumed: Kueue does that with what it admits, and a person with what a
    person has stopped.
    """
    if world.iteration.spec.suspend:
        return tuple((job.name, True) for job in world.jobs if _may_change(job, "Active") and not _is_resumed(job))
    running = [state.job for state in progress.values() if isinstance(state, Running)]
    return tuple((job.name, False) for job in running if _may_change(job, "Suspended") and job.suspended_by_us)


def _adjustments(world: Snapshot) -> tuple[tuple[str, int | None, int | None], ...]:
    """What Jobs take over while they wait, run or have ended. One that is not given any more is left as it was: others
    may set it by a policy of the cluster."""
    deadline, ttl = world.iteration.spec.deadline_seconds, world.iteration.spec.ttl_seconds_after_finished
    return tuple(
        (job.name, deadline, ttl)
        for job in world.jobs
        if not job.deleting and (deadline not in (None, job.deadline_seconds) or ttl not in (None, job.ttl_seconds))
    )


def _deletions(world: Snapshot, progress: Mapping[str, Progress]) -> tuple[str, ...]:
    """Jobs that are in the way, of a stage that the iteration has no more, or that do not end though their results are
    in; and, suspended, those that somebody else resumes."""
    in_the_way = [name for state in progress.values() if isinstance(state, Replacing) for name in state.jobs]
    in_the_way += [job.name for job in world.jobs if is_live(job) and job.stage not in progress]
    in_the_way += [job.name for job, until in _lingering(world, progress) if until <= world.now]
    resumed = [job.name for job in world.jobs if is_live(job) and _is_resumed(job)]
    going = {job.name for job in world.jobs if job.deleting}
    wanted = dict.fromkeys([*in_the_way, *(resumed if world.iteration.spec.suspend else ())])
    return tuple(name for name in wanted if name not in going)


def _lingering(world: Snapshot, progress: Mapping[str, Progress]) -> Iterator[tuple[Job, datetime]]:
    """Jobs that go on beside their results, and until when: a container that is not ours would hold their devices."""
    done = {state.status.job: state.status for state in progress.values() if isinstance(state, Done)}
    for job in world.jobs:
        if job.state == "Active" and not job.deleting and (status := done.get(job.name)):
            yield job, (moment_of(status.completion_time) or world.now) + PODS_END


def _is_resumed(job: Job) -> bool:
    """Somebody else resumes it however often it is suspended: Kueue what it has admitted, or whoever has done so with
    what we had suspended."""
    return job.queued or (job.suspended_by_us and job.state == "Active")


def _unread(world: Snapshot, progress: Mapping[str, Progress]) -> tuple[str, ...]:
    """Jobs that ended a while ago, and that count as running because their pods did not follow."""
    running = [state for state in progress.values() if isinstance(state, Running)]
    return tuple(s.job.name for s in running if not is_live(s.job) and s.until and s.until <= world.now)


def _unasked(world: Snapshot, progress: Mapping[str, Progress]) -> tuple[str, ...]:
    """Jobs whose pods do not appear, if that was not asked for lately."""
    if world.iteration.spec.suspend:
        return ()
    running = [state.job for state in progress.values() if isinstance(state, Running)]
    return tuple(job.name for job in running if (at := asks_at(job)) and at <= world.now)


def _may_change(job: Job, state: str) -> bool:
    return job.state == state and not job.deleting


def _wake_at(world: Snapshot, progress: Mapping[str, Progress], endpoint: EndpointPlan) -> datetime | None:
    lingering = [until for _, until in _lingering(world, progress) if until > world.now]
    moments = [*(_next_moment(state) for state in progress.values()), endpoint.until, *lingering]
    return min((moment for moment in moments if moment), default=None)


def _next_moment(state: Progress) -> datetime | None:
    """When time alone makes something else of a stage's state."""
    match state:
        case Running() | Waiting():
            return state.until
        case Retrying():
            return state.at
        case _:
            return None
