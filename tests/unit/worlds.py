"""Builders that make the planner's tables read as a specification."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from feedback_operator.api import FeedbackIteration
from feedback_operator.api.status import timestamp
from feedback_operator.cluster.jobs import job_of
from feedback_operator.plan.planner import Plan, plan
from feedback_operator.plan.snapshot import Endpoint, Job, Parent, Pod, Snapshot, Words
from feedback_operator.resources import house_rules
from feedback_operator.resources.house_rules import HouseRules
from feedback_operator.stages import STAGES
from feedback_workloads.contract import Artifact, Ranking, RankingChoice, StageFailure, StageResult

IMAGES = {"generate": "generate:test", "train": "train:test"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = {
    "selected_step": 10.0,
    "selection.baseline.response_hallucination": 0.4,
    "selection.aligned.response_hallucination": 0.22,
    "selection.baseline.recall": 0.8,
    "selection.aligned.recall": 0.84,
    "baseline.response_hallucination": 0.42,
    "aligned.response_hallucination": 0.21,
    "baseline.recall": 0.8,
    "aligned.recall": 0.85,
}


def manifest(**spec: Any) -> dict[str, Any]:
    """A minimal valid iteration, with these sections of the spec replaced."""
    return {
        "apiVersion": "feedback.rlaif.dev/v1alpha1",
        "kind": "FeedbackIteration",
        "metadata": {"name": "it", "uid": "u-1"},
        "spec": {
            "model": {"uri": "s3://b/policy"},
            "labeling": {"model": {"uri": "s3://b/labeler"}},
            "instructions": {"uri": "s3://b/instructions"},
            "artifacts": {"uri": "s3://b/artifacts"},
            "evaluation": {"benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://b/benchmark"}]},
            **spec,
        },
    }


def from_pairs(**spec: Any) -> dict[str, Any]:
    """A minimal valid iteration whose pairs were made elsewhere, with these sections of the spec replaced."""
    made = manifest(**{"pairs": {"source": {"uri": "s3://b/pairs"}}, **spec})
    made["spec"] = {name: value for name, value in made["spec"].items() if name not in ("instructions", "labeling")}
    return made


def alone(**spec: Any) -> dict[str, Any]:
    """A minimal valid iteration that evaluates a model as it is, with these sections given besides."""
    made = manifest(only="Evaluation")["spec"]
    kept = {name: value for name, value in made.items() if name not in ("instructions", "labeling")}
    evaluation = {**kept["evaluation"], **spec.pop("evaluation", {})}
    return {**manifest(), "spec": {**kept, **spec, "evaluation": evaluation}}


def iteration(**spec: Any) -> FeedbackIteration:
    return FeedbackIteration.model_validate(manifest(**spec))


def with_metadata(of: FeedbackIteration, **changes: Any) -> FeedbackIteration:
    return of.model_copy(update={"metadata": of.metadata.model_copy(update=changes)})


def decide(world: Snapshot) -> Plan:
    return plan(world, IMAGES)


def result(stage: str, shard: int = 0, metrics: dict[str, float] | None = None) -> StageResult:
    digest = hashlib.sha256(f"{stage} {shard}".encode()).hexdigest()
    uri = f"s3://b/artifacts/{stage}/x/shard-{shard}"
    aligned = (
        Artifact(uri="s3://b/artifacts/training/x/checkpoint-000010", sha256="a" * 64)
        if stage == "evaluation"
        else None
    )
    return StageResult(
        stage=stage,
        shard=shard,
        manifest=Artifact(uri=uri, sha256=digest),
        counts={"rows": 10, "rejected": 0},
        metrics=metrics or {},
        aligned=aligned,
        ranked=RankingChoice(n=4, ranking=Ranking(rule="Regularised", weight=0.3)) if aligned else None,
        reused=False,
    )


def succeeded(stage: str, shard: int = 0, metrics: dict[str, float] | None = None) -> Pod:
    return Pod(shard, exit_code=0, message=result(stage, shard, metrics).model_dump_json())


def broken(reason: str, message: str, exit_code: int, stage: str = "sampling", index: int = 0) -> Pod:
    """A pod that ended with this failure."""
    failure = StageFailure(stage=stage, shard=index, reason=reason, message=message)
    return Pod(index, exit_code, message=failure.model_dump_json())


@dataclass
class Simulation:
    """A world that obeys plans: what they create exists next time, in the state the test gives it."""

    iteration: FeedbackIteration
    jobs: dict[str, Job] = field(default_factory=dict)
    now: datetime = NOW
    parent: Parent | None = None
    endpoint: Endpoint | None = None
    elsewhere: dict[str, tuple[Job, ...]] = field(default_factory=dict)
    unseen: dict[str, tuple[Pod, ...]] = field(default_factory=dict)
    """Pods by Job that no watch shows: one has to read them."""
    house: HouseRules = house_rules.NONE
    said: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the cluster says, when asked, of a Job by name that has no pods: reason and text."""

    @classmethod
    def of(cls, **spec: Any) -> Simulation:
        return cls(iteration(**spec))

    def snapshot(self) -> Snapshot:
        jobs = tuple(self.jobs.values())
        return Snapshot(
            self.iteration, jobs, self.now, self.parent, self.endpoint, elsewhere=self.elsewhere, house=self.house
        )

    def step(self) -> Plan:
        """Plan once, and carry the plan out."""
        decided = decide(self.snapshot())
        if decided.read:
            for name in decided.read:
                self.jobs[name] = replace(self.jobs[name], pods=self.unseen.pop(name, ()), pods_read=True)
            decided = decide(self.snapshot())
        if decided.ask:
            for name in decided.ask:
                self.jobs[name] = replace(self.jobs[name], words=Words(self.now, *self.said.get(name, ())))
            decided = decide(self.snapshot())
        for made in decided.create:
            if made["kind"] == "Job":
                self.jobs.setdefault(made["metadata"]["name"], replace(started(made), created=self.now))
        for name, suspended in decided.suspend:
            state = "Suspended" if suspended else "Active"
            self.jobs[name] = replace(self.jobs[name], state=state, suspended_by_us=suspended)
        for name, deadline, ttl in decided.adjust:
            job = self.jobs[name]
            self.jobs[name] = replace(
                job, deadline_seconds=deadline or job.deadline_seconds, ttl_seconds=ttl or job.ttl_seconds
            )
        for name in decided.delete:
            self.jobs.pop(name, None)
        self.iteration = self.iteration.model_copy(update={"status": decided.status})
        return decided

    # ── what a person does ──────────────────────────────────────────────────────────────────────────────────────────

    def edit(self, **spec: Any) -> None:
        """Change these sections of the spec."""
        before = self.iteration
        data = copy.deepcopy(before.spec.model_dump(by_alias=True, exclude_none=True))
        edited = FeedbackIteration.model_validate({**manifest(), "spec": {**data, **spec}})
        moved = with_metadata(before, generation=before.metadata.generation + 1)
        self.iteration = moved.model_copy(update={"spec": edited.spec})

    # ── what the cluster does ───────────────────────────────────────────────────────────────────────────────────────

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def active(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state == "Active"]

    def change(self, job: Job, **changes: Any) -> None:
        self.jobs[job.name] = replace(self.jobs[job.name], **changes)

    def finish(self, job: Job, state: str, *pods: Pod, reason: str = "") -> None:
        self.change(job, state=state, pods=pods, reason=reason, finished=self.now)

    def complete(self, job: Job, metrics: dict[str, float] | None = None) -> None:
        """End a Job well, with a result of each shard."""
        shards = STAGES[job.stage].results(self.iteration.spec)
        found = METRICS if metrics is None and job.stage == "evaluation" else metrics
        self.finish(job, "Complete", *(succeeded(job.stage, shard, found) for shard in range(shards)))

    def run_until(self, stage: str) -> Job:
        """Complete every stage before `stage`, whose active Job is returned."""
        while True:
            self.step()
            job = self.active()[0]
            if job.stage == stage:
                return job
            self.complete(job)

    def run(self) -> None:
        """Complete every stage."""
        self.complete(self.run_until("evaluation"))
        self.step()

    # ── what there is to see ────────────────────────────────────────────────────────────────────────────────────────

    def states(self) -> dict[str, str]:
        return {stage.name: stage.state for stage in self.iteration.status.stages}

    def conditions(self) -> dict[str, str]:
        return {c.type: c.status for c in self.iteration.status.conditions}

    def told(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition."""
        return next((c.status, c.reason, c.message) for c in self.iteration.status.conditions if c.type == kind)


def started(made: dict[str, Any]) -> Job:
    """The Job of this manifest, all of whose pods run."""
    pods = tuple(Pod(index, running=True) for index in range(made["spec"]["completions"]))
    return replace(job_of(made), started=NOW, pods=pods)


def promoted(name: str, uid: str, created: datetime = NOW, **spec: Any) -> FeedbackIteration:
    """An iteration that went through all stages and its gate."""
    simulation = Simulation(with_metadata(iteration(**spec), name=name, uid=uid, creation_timestamp=timestamp(created)))
    simulation.run()
    return simulation.iteration
