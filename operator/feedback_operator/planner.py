"""What should exist next, given what exists now. Pure: no I/O, no clock, no randomness.

The plan follows from the spec, the recorded status, the observed Jobs and the time in the snapshot, so planning twice,
or again after a crash in the middle of carrying a plan out, comes to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, assert_never

from feedback_operator.api import (
    Condition,
    IterationStatus,
    ShardResult,
    SourceSpec,
    StageStatus,
)
from feedback_operator.conditions import broken_rules, condition, timestamp
from feedback_operator.failures import Failure, failure_of
from feedback_operator.resources import Manifest
from feedback_operator.resources.configmap import build_configmap
from feedback_operator.resources.job import StageRun, build_job
from feedback_operator.snapshot import Job, Snapshot
from feedback_operator.stages import GRAPH, Image, Inputs, Stage
from feedback_workloads.contract import Artifact, Source, StageConfig, StageResult

MAX_ATTEMPTS: Final = 3
"""Attempts at a stage whose Job completed without handing in every result."""

Images = Mapping[Image, str]
MakeCondition = Callable[[str, Literal["True", "False", "Unknown"], str, str], Condition]


# ── states of a stage ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Waiting:
    """Its inputs are not there yet."""

    message: str = ""


@dataclass(frozen=True)
class Startable:
    """Its inputs are there and no Job runs: attempt `attempt` may start."""

    config: StageConfig
    address: str
    attempt: int


@dataclass(frozen=True)
class Running:
    job: Job


@dataclass(frozen=True)
class Done:
    """Every shard handed in a valid result."""

    status: StageStatus


@dataclass(frozen=True)
class Failed:
    job: Job
    failure: Failure


Progress = Waiting | Startable | Running | Done | Failed


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Plan:
    """What to do: manifests to create, Jobs to suspend or resume by name, and the status to write."""

    create: tuple[Manifest, ...]
    suspend: tuple[tuple[str, bool], ...]
    status: IterationStatus


def plan(world: Snapshot, images: Images) -> Plan:
    """Decide everything for one iteration."""
    progress = observe(world)
    return Plan(
        create=_creations(world, progress, images),
        suspend=_suspensions(world, progress),
        status=_status(world, progress),
    )


def observe(world: Snapshot) -> dict[str, Progress]:
    """The state of each stage, in the order of the graph."""
    states: dict[str, Progress] = {}
    for stage in GRAPH:
        states[stage.name] = _observe_stage(world, stage, states)
    return states


def _observe_stage(world: Snapshot, stage: Stage, before: Mapping[str, Progress]) -> Progress:
    missing = [need for need in stage.needs if not isinstance(before[need], Done)]
    if missing:
        return Waiting(f"waits for {missing[0]}")
    model = resolved_model(world)
    if model is None:
        parent = world.iteration.spec.model.from_
        return Waiting(f"waits for iteration {parent.iteration if parent else ''} to be promoted")
    given = Inputs(world.iteration.spec, model, {need: _artifacts(before[need]) for need in stage.needs})
    config = stage.addressed_config(given)
    address = config.content_hash()
    recorded = next((s for s in world.iteration.status.stages if s.name == stage.name), None)
    if recorded and recorded.state == "Done" and recorded.hash == address:
        return Done(recorded)
    jobs = [job for job in world.jobs if job.stage == stage.name and job.address == address]
    if not jobs:
        return Startable(config, address, attempt=0)
    return _observe_job(max(jobs, key=lambda job: job.attempt), config, address, _results_wanted(stage, world))


def _observe_job(job: Job, config: StageConfig, address: str, wanted: int) -> Progress:
    match job.state:
        case "Active" | "Suspended":
            return Running(job)
        case "Failed":
            return Failed(job, failure_of(job))
        case "Complete":
            results = {pod.index: result for pod in job.pods if (result := pod.result())}
            if set(range(wanted)) <= set(results):
                return Done(_done_status(job, [results[index] for index in range(wanted)]))
            if job.attempt + 1 < MAX_ATTEMPTS:
                return Startable(config, address, attempt=job.attempt + 1)
            message = f"{job.stage}: {MAX_ATTEMPTS} Jobs completed without a readable result; look at the pods' logs"
            return Failed(job, Failure("ResultMissing", False, message))
        case _:
            assert_never(job.state)


def _results_wanted(stage: Stage, world: Snapshot) -> int:
    """Results a stage hands in: one a shard; the nodes of one training hand in one together."""
    return 1 if stage.name == "policy" else stage.pods(world.iteration.spec)


def resolved_model(world: Snapshot) -> Source | None:
    """The policy to align: named in the spec, or promoted by the parent iteration (None until it is)."""
    model = world.iteration.spec.model
    if model.uri is None:
        return world.parent
    return Source(uri=model.uri.rstrip("/"), revision=model.revision, sha256=model.sha256)


def _artifacts(progress: Progress) -> tuple[Artifact, ...]:
    if not isinstance(progress, Done):
        raise TypeError(f"only a stage that is done has artifacts, not {progress}")
    return tuple(Artifact(uri=shard.uri, sha256=shard.sha256) for shard in progress.status.shards)


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


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _status(world: Snapshot, progress: Mapping[str, Progress]) -> IterationStatus:
    scores = progress["scores"]
    return IterationStatus(
        observed_generation=world.iteration.metadata.generation,
        conditions=_conditions(world, progress),
        stages=[_stage_status(stage.name, progress[stage.name], world) for stage in GRAPH],
        aligned=scores.status.shards[0].aligned if isinstance(scores, Done) else None,
    )


def _stage_status(name: str, state: Progress, world: Snapshot) -> StageStatus:
    match state:
        case Waiting():
            return StageStatus(name=name, state="Waiting", message=state.message)
        case Startable():
            kind: Literal["Suspended", "Waiting"] = "Suspended" if world.iteration.spec.suspend else "Waiting"
            return StageStatus(name=name, state=kind, hash=state.address, attempt=state.attempt)
        case Running(job):
            units = job.units
            return _job_status(job, "Suspended" if job.state == "Suspended" else "Running").model_copy(
                update={"done": units.done, "total": units.total, "message": units.phase}
            )
        case Done():
            return state.status
        case Failed(job, failure):
            return _job_status(job, "Failed").model_copy(update={"message": failure.message})
        case _:
            assert_never(state)


def _job_status(job: Job, state: Literal["Running", "Suspended", "Done", "Failed"]) -> StageStatus:
    return StageStatus(
        name=job.stage,
        state=state,
        hash=job.address,
        job=job.name,
        attempt=job.attempt,
        start_time=timestamp(job.started),
        completion_time=timestamp(job.finished),
    )


def _done_status(job: Job, results: Sequence[StageResult]) -> StageStatus:
    return _job_status(job, "Done").model_copy(update={"shards": [_shard(result) for result in results]})


def _shard(result: StageResult) -> ShardResult:
    aligned = result.aligned and SourceSpec(uri=result.aligned.uri, sha256=result.aligned.sha256)
    return ShardResult(
        shard=result.shard,
        uri=result.manifest.uri,
        sha256=result.manifest.sha256,
        counts=result.counts,
        metrics={name: format(Decimal(repr(value)), "f") for name, value in result.metrics.items()},
        aligned=aligned,
        reused=result.reused,
    )


def _conditions(world: Snapshot, progress: Mapping[str, Progress]) -> list[Condition]:
    """Ready, Reconciling and Stalled as kstatus reads them, and Promoted for the gate."""
    meta = world.iteration.metadata
    before = world.iteration.status.conditions

    def make(kind: str, status: Literal["True", "False", "Unknown"], reason: str, message: str) -> Condition:
        return condition(kind, status, reason, message, before=before, generation=meta.generation, now=world.now)

    failed = next((state for state in progress.values() if isinstance(state, Failed)), None)
    if failed:
        reason, message = failed.failure.reason, failed.failure.message
        return [
            make("Ready", "False", reason, message),
            make("Reconciling", "False", "Stalled", ""),
            make("Stalled", "True", reason, message),
            make("Promoted", "Unknown", "NotScored", "the aligned policy was not scored"),
        ]
    scores = progress["scores"]
    if isinstance(scores, Done):
        return [
            make("Ready", "True", "Complete", "all stages are done"),
            make("Reconciling", "False", "Complete", ""),
            make("Stalled", "False", "Complete", ""),
            _promoted(world, scores, make),
        ]
    current = next(name for name, state in progress.items() if not isinstance(state, Done))
    reason = "Suspended" if world.iteration.spec.suspend else "StageRunning"
    return [
        make("Ready", "False", reason, f"at stage {current}"),
        make("Reconciling", "True", reason, f"at stage {current}"),
        make("Stalled", "False", "Progressing", ""),
        make("Promoted", "Unknown", "NotScored", "the aligned policy was not scored yet"),
    ]


def _promoted(world: Snapshot, scores: Done, make: MakeCondition) -> Condition:
    metrics = {name: float(text) for name, text in scores.status.shards[0].metrics.items()}
    broken = broken_rules(world.iteration.spec.evaluation.gate, metrics)
    if broken:
        return make("Promoted", "False", "GateFailed", "; ".join(broken))
    return make("Promoted", "True", "GatePassed", "the aligned policy meets every rule of spec.evaluation.gate")
