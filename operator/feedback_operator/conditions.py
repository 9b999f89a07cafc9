"""Status from observations: conditions that kstatus understands, and the verdict of the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, assert_never

from feedback_operator.api import Condition, GateRule, IterationStatus, StageStatus
from feedback_operator.observe import Done, Failed, Progress, Running, Startable, Waiting, job_status
from feedback_operator.snapshot import Snapshot
from feedback_operator.stages import GRAPH
from feedback_operator.timestamps import timestamp

METRICS: Final = {
    "responseHallucination": "response_hallucination",
    "mentionHallucination": "mention_hallucination",
    "recall": "recall",
    "meanWords": "mean_words",
}
"""Name of a gate's metric in the spec, and in the scores stage's metrics."""

MakeCondition = Callable[[str, Literal["True", "False", "Unknown"], str, str], Condition]


def status_of(world: Snapshot, progress: Mapping[str, Progress]) -> IterationStatus:
    """The whole status, computed from what was observed."""
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
            return job_status(job, "Suspended" if job.state == "Suspended" else "Running").model_copy(
                update={"done": units.done, "total": units.total, "message": units.phase}
            )
        case Done():
            return state.status
        case Failed(job, failure):
            return job_status(job, "Failed").model_copy(update={"message": failure.message})
        case _:
            assert_never(state)


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


def broken_rules(gate: Sequence[GateRule], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Say of each rule that the aligned policy does not meet what it measured and what was wanted."""
    return tuple(text for rule in gate if (text := _broken(rule, metrics)))


def _broken(rule: GateRule, metrics: Mapping[str, float]) -> str:
    name = METRICS[rule.metric]
    value, subject = metrics.get(f"aligned.{name}"), str(rule.metric)
    if value is not None and rule.relative_to == "Baseline":
        baseline, subject = metrics.get(f"baseline.{name}"), f"{rule.metric} relative to the baseline"
        value = value / baseline if baseline else None
    if value is None:
        return f"{subject} was not measured"
    measured = Decimal(repr(value))
    if rule.max is not None and measured > Decimal(rule.max):
        return f"{subject} is {value:.4g}, above {rule.max}"
    if rule.min is not None and measured < Decimal(rule.min):
        return f"{subject} is {value:.4g}, below {rule.min}"
    return ""


def is_true(conditions: Sequence[Condition], kind: str) -> bool:
    return any(c.type == kind and c.status == "True" for c in conditions)


def condition(
    kind: str,
    status: Literal["True", "False", "Unknown"],
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
