"""Builders that make the planner's tables read as a specification."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feedback_operator.api import FeedbackIteration
from feedback_operator.planner import Plan, plan
from feedback_operator.resources.job import ADDRESS_ANNOTATION, ATTEMPT_LABEL, STAGE_LABEL
from feedback_operator.snapshot import Job, Pod, Snapshot
from feedback_workloads.contract import Artifact, StageFailure, StageResult

IMAGES = {"generate": "generate:test", "train": "train:test"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(**spec: Any) -> dict[str, Any]:
    """A minimal valid iteration, with these sections of the spec replaced."""
    return {
        "apiVersion": "feedback.rlaif.dev/v1alpha1",
        "kind": "FeedbackIteration",
        "metadata": {"name": "it", "uid": "u-1"},
        "spec": {
            "model": {"uri": "s3://b/policy"},
            "labeler": {"model": {"uri": "s3://b/labeler"}},
            "instructions": {"uri": "s3://b/instructions"},
            "artifacts": {"uri": "s3://b/artifacts"},
            "evaluation": {"benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://b/benchmark"}]},
            **spec,
        },
    }


def iteration(**spec: Any) -> FeedbackIteration:
    return FeedbackIteration.model_validate(manifest(**spec))


def decide(world: Snapshot) -> Plan:
    return plan(world, IMAGES)


def result(stage: str, shard: int = 0, metrics: dict[str, float] | None = None) -> StageResult:
    digest = f"{abs(hash((stage, shard))):064x}"[:64]
    uri = f"s3://b/artifacts/{stage}/x/shard-{shard}"
    aligned = (
        Artifact(uri="s3://b/artifacts/policy/x/checkpoint-000010", sha256="a" * 64) if stage == "scores" else None
    )
    return StageResult(
        stage=stage,
        shard=shard,
        manifest=Artifact(uri=uri, sha256=digest),
        counts={"rows": 10, "rejected": 0},
        metrics=metrics or {},
        aligned=aligned,
        reused=False,
    )


def succeeded(stage: str, shard: int = 0, metrics: dict[str, float] | None = None) -> Pod:
    return Pod(shard, exit_code=0, message=result(stage, shard, metrics).model_dump_json())


def broken(reason: str, message: str, exit_code: int) -> Pod:
    """A pod of the stage samples that ended with this failure."""
    failure = StageFailure(stage="samples", shard=0, reason=reason, message=message)
    return Pod(0, exit_code, message=failure.model_dump_json())


@dataclass
class Simulation:
    """A world that obeys plans: what they create exists next time, in the state the test gives it."""

    iteration: FeedbackIteration
    jobs: dict[str, Job]

    @classmethod
    def of(cls, **spec: Any) -> Simulation:
        return cls(iteration(**spec), {})

    def snapshot(self) -> Snapshot:
        return Snapshot(self.iteration, tuple(self.jobs.values()), NOW)

    def step(self) -> Plan:
        """Plan once, and carry the plan out."""
        decided = decide(self.snapshot())
        for made in decided.create:
            if made["kind"] == "Job":
                self.jobs.setdefault(made["metadata"]["name"], job_of(made))
        for name, suspended in decided.suspend:
            self.jobs[name] = _replace(self.jobs[name], state="Suspended" if suspended else "Active")
        self.iteration = self.iteration.model_copy(update={"status": decided.status})
        return decided

    def active(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state == "Active"]

    def finish(self, job: Job, state: str, *pods: Pod, reason: str = "") -> None:
        self.jobs[job.name] = _replace(job, state=state, pods=pods, reason=reason, finished=NOW)

    def complete(self, job: Job, metrics: dict[str, float] | None = None) -> None:
        """End a Job well, with a result of each shard."""
        pods = [succeeded(job.stage, shard, metrics) for shard in range(self._shards(job.stage))]
        self.finish(job, "Complete", *pods)

    def run_until(self, stage: str) -> Job:
        """Complete every stage before `stage`, whose active Job is returned."""
        while True:
            self.step()
            job = self.active()[0]
            if job.stage == stage:
                return job
            self.complete(job)

    def _shards(self, stage: str) -> int:
        spec = self.iteration.spec
        return {"samples": spec.sampling.shards, "claims": spec.labeling.shards, "verdicts": spec.labeling.shards}.get(
            stage, 1
        )


def job_of(made: dict[str, Any]) -> Job:
    meta = made["metadata"]
    return Job(
        name=meta["name"],
        stage=meta["labels"][STAGE_LABEL],
        address=meta["annotations"][ADDRESS_ANNOTATION],
        attempt=int(meta["labels"][ATTEMPT_LABEL]),
        state="Active",
        started=NOW,
    )


def _replace(job: Job, **changes: Any) -> Job:
    return Job(**{**{name: getattr(job, name) for name in job.__dataclass_fields__}, **changes})
