"""What should exist next, given what exists now. Pure: no I/O, no clock, no randomness.

The plan follows from the spec, the recorded status, the observed Jobs and the time in the snapshot, so planning twice,
or again after a crash in the middle of carrying a plan out, comes to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from feedback_operator.api import IterationStatus
from feedback_operator.conditions import status_of
from feedback_operator.observe import Failed, Progress, Running, Startable, observe
from feedback_operator.resources import Manifest
from feedback_operator.resources.configmap import build_configmap
from feedback_operator.resources.job import StageRun, build_job
from feedback_operator.snapshot import Snapshot
from feedback_operator.stages import GRAPH, Image

Images = Mapping[Image, str]
"""Container image of each kind of stage."""


@dataclass(frozen=True)
class Plan:
    """What to do, in this order; carrying it out twice, or half and then again, comes to the same.

    `create`: Jobs, ConfigMaps, headless Services and NetworkPolicies; once, one of that name is as good.
    `suspend`: Jobs by name, to suspend (True) or to resume.
    `delete`: Jobs by name, in the foreground (they stay visible until their pods are gone); gone is as good.
    `apply`: Deployment, Service, PodDisruptionBudget and NetworkPolicy of the endpoint, by server-side apply, forced;
        only those that differ from what was observed.
    `status`: to write if it differs from the iteration's.
    `wake_at`: the next moment at which time alone changes the plan.
    """

    create: tuple[Manifest, ...]
    suspend: tuple[tuple[str, bool], ...]
    status: IterationStatus
    delete: tuple[str, ...] = ()
    apply: tuple[Manifest, ...] = ()
    wake_at: datetime | None = None


def plan(world: Snapshot, images: Images) -> Plan:
    """Decide everything for one iteration."""
    progress = observe(world)
    return Plan(
        create=_creations(world, progress, images),
        suspend=_suspensions(world, progress),
        status=status_of(world, progress),
    )


def _creations(world: Snapshot, progress: Mapping[str, Progress], images: Images) -> tuple[Manifest, ...]:
    spec = world.iteration.spec
    if spec.suspend or any(isinstance(state, Failed) for state in progress.values()):
        return ()
    manifests: list[Manifest] = []
    for stage in GRAPH:
        state = progress[stage.name]
        if isinstance(state, Startable):
            run = StageRun(
                owner=world.iteration.metadata,
                stage=stage,
                section=stage.section(spec),
                config=state.config,
                address=state.address,
                attempt=state.attempt,
                retries=0,
                pods=stage.pods(spec),
                image=images[stage.image],
                deadline_seconds=spec.deadline_seconds,
                ttl_seconds_after_finished=spec.ttl_seconds_after_finished,
            )
            manifests += [build_configmap(run), build_job(run)]
    return tuple(manifests)


def _suspensions(world: Snapshot, progress: Mapping[str, Progress]) -> tuple[tuple[str, bool], ...]:
    wanted = world.iteration.spec.suspend
    return tuple(
        (state.job.name, wanted)
        for state in progress.values()
        if isinstance(state, Running) and (state.job.state == "Suspended") != wanted
    )
