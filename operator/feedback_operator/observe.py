"""The state of each stage, from what was recorded and what is observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, assert_never

from feedback_operator.api import ShardResult, SourceSpec, StageStatus
from feedback_operator.failures import Failure, failure_of
from feedback_operator.snapshot import Job, Snapshot
from feedback_operator.stages import GRAPH, Inputs, Stage
from feedback_operator.timestamps import timestamp
from feedback_workloads.contract import Artifact, Source, StageConfig, StageResult

MAX_ATTEMPTS: Final = 3
"""Attempts at a stage whose Job completed without handing in every result."""


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
        return world.parent.model if world.parent else None
    return Source(uri=model.uri.rstrip("/"), revision=model.revision, sha256=model.sha256)


def _artifacts(progress: Progress) -> tuple[Artifact, ...]:
    if not isinstance(progress, Done):
        raise TypeError(f"only a stage that is done has artifacts, not {progress}")
    return tuple(Artifact(uri=shard.uri, sha256=shard.sha256) for shard in progress.status.shards)


def job_status(job: Job, state: Literal["Running", "Suspended", "Done", "Failed"]) -> StageStatus:
    """What the status says of a stage with a Job."""
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
    return job_status(job, "Done").model_copy(update={"shards": [_shard(result) for result in results]})


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
