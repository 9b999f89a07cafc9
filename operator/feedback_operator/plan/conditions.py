"""Status from observations: conditions that readiness understands, the verdict of the gate, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, assert_never

from feedback_operator.api import (
    Condition,
    Hallucination,
    IterationSpec,
    IterationStatus,
    PromotedModel,
    ResolvedModel,
    ServingStatus,
    ShardResult,
    StageStatus,
)
from feedback_operator.api.status import timestamp
from feedback_operator.plan.endpoint import EndpointPlan, image_at_work
from feedback_operator.plan.failures import Trouble
from feedback_operator.plan.gate import all_measured, broken_rules
from feedback_operator.plan.observe import resolved_model
from feedback_operator.plan.snapshot import Job, Snapshot
from feedback_operator.plan.states import (
    REPLACED,
    Done,
    Failed,
    Progress,
    Replacing,
    Retrying,
    Running,
    Startable,
    Waiting,
    job_status,
    reached_by,
)
from feedback_operator.resources.job import QUEUE_LABEL
from feedback_operator.stages import stages_of

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class GateResult:
    """What Promoted says."""

    status: Truth
    reason: str
    message: str


@dataclass(frozen=True)
class Readiness:
    """What Ready, Reconciling and Stalled say: at most one of them is True, and all say why."""

    holds: Literal["Ready", "Reconciling", "Stalled", "Nothing"]
    reason: str
    message: str


def status_of(
    world: Snapshot,
    progress: Mapping[str, Progress],
    gate: GateResult,
    promoted: PromotedModel | None,
    endpoint: EndpointPlan,
) -> IterationStatus:
    """The whole status, computed from what was observed."""
    names = [stage.name for stage in stages_of(world.iteration.spec)]
    stages = [_stage_status(name, progress[name], world) for name in names]
    current = next((stage for stage in stages if stage.state != "Done"), None)
    scores = scores_of(progress)
    return IterationStatus(
        observed_generation=world.iteration.metadata.generation,
        stage=current.name if current else "",
        progress=f"{current.done}/{current.total}" if current and current.total else "",
        conditions=_conditions(world, _readiness(world, progress, endpoint), gate, endpoint),
        stages=stages,
        model=resolved_model(world),
        aligned=scores.aligned if scores else None,
        hallucination=_hallucination(scores),
        promoted=promoted,
        serving=_serving_status(world, endpoint),
    )


# ── the outcome ──────────────────────────────────────────────────────────────────────────────────────────────────────


def gate_result(world: Snapshot, progress: Mapping[str, Progress]) -> GateResult:
    """The gate's verdict on the aligned policy.

    A promotion of this generation stays where the gate reads what an evaluation of then did not measure.
    """
    scores, evaluation = scores_of(progress), world.iteration.spec.evaluation
    if world.iteration.spec.only:
        return GateResult("False", "NothingTrained", "spec.only is Evaluation: nothing is trained, so nothing promoted")
    if scores is None:
        return GateResult("Unknown", "NotScored", "the aligned policy was not scored yet")
    if scores.aligned is None:
        return GateResult("False", "NoCheckpoint", "no checkpoint was chosen; see the report of the evaluation")
    before = world.iteration.says("Promoted")
    if before and before.status == "True" and not all_measured(evaluation, scores.metrics):
        return GateResult(before.status, before.reason, before.message)
    broken = broken_rules(evaluation, scores.metrics)
    if broken:
        return GateResult("False", "GateFailed", "; ".join(broken))
    return GateResult(
        "True", "GatePassed", "the aligned policy meets every rule of spec.evaluation.gate on the selection split"
    )


def scores_of(progress: Mapping[str, Progress]) -> ShardResult | None:
    """What the evaluation handed in; None before it is done."""
    evaluation = progress["evaluation"]
    return evaluation.status.shards[0] if isinstance(evaluation, Done) else None


def promoted_model(
    world: Snapshot, progress: Mapping[str, Progress], gate: GateResult, image: str
) -> PromotedModel | None:
    """The model that passed the gate now, or else the one that did last: it keeps its endpoint meanwhile.

    `image` is the operator's for servers. A model keeps the one that it was promoted with: an operator that has another
    one must not change pods that serve. Of a model that was promoted without a record of it, its pods tell.
    """
    recorded = world.iteration.status.promoted
    found = _passing(world, progress, gate) or recorded
    if found is None:
        return None
    same = recorded if recorded and recorded.sha256 == found.sha256 else None
    kept = (same.image or image_at_work(world)) if same else ""
    return found.model_copy(update={"image": kept or image})


def _passing(world: Snapshot, progress: Mapping[str, Progress], gate: GateResult) -> PromotedModel | None:
    """The model that passes the gate now."""
    scores, reference = scores_of(progress), resolved_model(world)
    if gate.status != "True" or scores is None or reference is None:
        return None
    return scored_model(world.iteration.spec, scores, reference)


def scored_model(spec: IterationSpec, scores: ShardResult, reference: ResolvedModel) -> PromotedModel | None:
    """The aligned policy with all that it was scored under, which is how it is to be served; None without a choice.

    Of ranking it has nothing where the evaluation says nothing of it: a server of then knows no such flags.
    """
    aligned, evaluation = scores.aligned, spec.evaluation
    if aligned is None or aligned.sha256 is None:
        return None
    return PromotedModel(
        uri=aligned.uri,
        sha256=aligned.sha256,
        reference=reference,
        beta=spec.training.beta,
        precision=spec.precision,
        temperature=evaluation.decoding.temperature,
        top_p=evaluation.decoding.top_p,
        max_new_tokens=evaluation.decoding.max_new_tokens or spec.sampling.max_new_tokens,
        ranked_temperature=evaluation.ranked_decoding.temperature if scores.ranking else "",
        ranked_top_p=evaluation.ranked_decoding.top_p if scores.ranking else "",
        best_of=scores.best_of or 1,
        ranking=scores.ranking,
    )


def _hallucination(scores: ShardResult | None) -> Hallucination | None:
    if scores is None:
        return None
    return Hallucination(
        baseline=scores.metrics.get("baseline.response_hallucination", ""),
        aligned=scores.metrics.get("aligned.response_hallucination", ""),
    )


def _serving_status(world: Snapshot, endpoint: EndpointPlan) -> ServingStatus | None:
    return endpoint.status or world.iteration.status.serving


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stage_status(name: str, state: Progress, world: Snapshot) -> StageStatus:
    recorded = next((stage for stage in world.iteration.status.stages if stage.name == name), None)
    match state:
        case Waiting():
            return StageStatus(name=name, state="Waiting", reason=state.reason, message=state.message)
        case Startable():
            return StageStatus(
                name=name,
                state="Suspended" if world.iteration.spec.suspend else "Waiting",
                hash=state.address,
                attempt=state.attempt,
                retries=state.retries,
                generation=world.iteration.metadata.generation,
            )
        case Replacing():
            same = state.recorded or StageStatus(name=name, state="Waiting", hash=state.address)
            message = f"waits until Job {state.jobs[0]}, which the spec no longer asks for, is gone"
            return same.model_copy(update={"reason": REPLACED, "message": message})
        case Running():
            return _running_status(state, recorded, world)
        case Done() | Failed() | Retrying():
            return state.status
        case _:
            assert_never(state)


def _running_status(state: Running, recorded: StageStatus | None, world: Snapshot) -> StageStatus:
    job, reached = state.job, reached_by(state.job, recorded)
    reason, message = (state.trouble.reason, state.trouble.message) if state.trouble else ("", reached.phase)
    if job.state == "Suspended" and not world.iteration.spec.suspend and not state.trouble:
        reason, message = _why_suspended(job)
    known = {"done": reached.done, "total": reached.total, "reason": reason, "message": message}
    return job_status(job, "Suspended" if job.state == "Suspended" else "Running").model_copy(update=known)


def _why_suspended(job: Job) -> tuple[str, str]:
    """Reason and message of a Job that somebody else has suspended, or that is about to be resumed."""
    if job.suspended_by_us:
        return "", ""
    if job.queued:
        said = f": {job.words.text}" if job.words and job.words.text else ""
        return "Queued", f"stage {job.stage} waits for Kueue to admit its Job{said}"
    return "JobSuspended", (
        f"{job.stage}: Job {job.name} was suspended by somebody else and is left so; `{job.resume_command}` lets it go "
        f"on; where Kueue manages all Jobs, name a queue in the iteration's label {QUEUE_LABEL}"
    )


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _readiness(world: Snapshot, progress: Mapping[str, Progress], endpoint: EndpointPlan) -> Readiness:
    """Where the iteration is as a whole: at the first stage that is not done, or at its endpoint."""
    for name, state in progress.items():
        if isinstance(state, Failed):
            return Readiness("Stalled", state.status.reason or "Failed", state.status.message)
        if not isinstance(state, Done) and world.iteration.spec.suspend:
            return Readiness("Nothing", "Suspended", f"suspended at stage {name}; set spec.suspend to false to go on")
        if not isinstance(state, Done):
            return _readiness_of_stage(name, state)
    return _readiness_of_endpoint(endpoint)


def _readiness_of_stage(name: str, state: Progress) -> Readiness:
    match state:
        case Running(trouble=Trouble() as trouble):
            return Readiness("Stalled" if state.stuck else "Reconciling", trouble.reason, trouble.message)
        case Running(job) if job.state == "Suspended" and not job.suspended_by_us:
            return Readiness("Reconciling", *_why_suspended(job))
        case Waiting():
            return Readiness("Stalled" if state.final else "Reconciling", state.reason, state.message)
        case Retrying(status):
            return Readiness("Reconciling", status.reason, status.message)
        case _:
            return Readiness("Reconciling", "StageRunning", f"at stage {name}")


def _readiness_of_endpoint(endpoint: EndpointPlan) -> Readiness:
    match endpoint.state:
        case "RollingOut" | "Unavailable" | "Canary":
            return Readiness("Reconciling", endpoint.state, f"endpoint: {endpoint.message}")
        case "RolledBack" | "Unschedulable":
            return Readiness("Stalled", endpoint.state, f"endpoint: {endpoint.message}")
        case _:
            return Readiness("Ready", "Complete", "all stages are done")


def _conditions(world: Snapshot, readiness: Readiness, gate: GateResult, endpoint: EndpointPlan) -> list[Condition]:
    """Ready, Reconciling and Stalled as readiness reads them; Promoted for the gate, and Serving for the endpoint."""
    kinds = ("Ready", "Reconciling", "Stalled")
    serving: Truth = "True" if endpoint.state == "Serving" else "False"
    return [
        *(
            _condition(world, kind, "True" if kind == readiness.holds else "False", readiness.reason, readiness.message)
            for kind in kinds
        ),
        _condition(world, "Promoted", gate.status, gate.reason, gate.message),
        _condition(world, "Serving", serving, endpoint.state, endpoint.message),
    ]


def is_true(conditions: Sequence[Condition], kind: str) -> bool:
    return any(c.type == kind and c.status == "True" for c in conditions)


def _condition(world: Snapshot, kind: str, status: Truth, reason: str, message: str) -> Condition:
    iteration = world.iteration
    return condition(
        kind,
        status,
        reason,
        message,
        before=iteration.status.conditions,
        generation=iteration.metadata.generation,
        now=world.now,
    )


def condition(
    kind: str,
    status: Truth,
    reason: str,
    message: str,
    *,
    before: Sequence[Condition],
    generation: int,
    now: datetime,
) -> Condition:
    """A condition whose transition time changes only when its status does."""
    old = next((c for c in before if c.type == kind), None)
    since = old.last_transition_time if old and old.status == status else timestamp(now)
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=since,
    )
