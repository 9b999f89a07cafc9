"""Iterations on a cluster in words: a list, one in full, why it does not go on, and what to type."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from feedback_operator.api import Condition, FeedbackIteration, StageStatus
from feedback_operator.cli.display import WORDS, clock, note, seconds
from feedback_operator.cli.remote import JOB_LABEL
from feedback_operator.plan.conditions import is_true
from feedback_operator.resources import ENDPOINT_LABEL

HEADINGS = ("NAME", "STAGE", "PROGRESS", "READY", "REASON", "BEFORE", "AFTER", "PROMOTED", "SERVING", "AGE")


def listing(iterations: Sequence[FeedbackIteration], now: datetime, *, everywhere: bool) -> str:
    """A table with a line an iteration: where it is, did it help, is it serving."""
    rows = [("NAMESPACE", *HEADINGS), *((one.metadata.namespace, *_row(one, now)) for one in iterations)]
    return columns(rows if everywhere else [row[1:] for row in rows])


def _row(iteration: FeedbackIteration, now: datetime) -> tuple[str, ...]:
    status = iteration.status
    ready, promoted, serving = (condition(iteration, kind) for kind in ("Ready", "Promoted", "Serving"))
    effect = status.hallucination
    return (
        iteration.metadata.name,
        status.stage,
        status.progress,
        ready.status if ready else "",
        ready.reason if ready else "",
        effect.baseline if effect else "",
        effect.aligned if effect else "",
        promoted.status if promoted else "",
        serving.status if serving else "",
        age(iteration, now),
    )


def description(iteration: FeedbackIteration, now: datetime, flags: str = "") -> str:
    """Everything that a person wants to know of one iteration. `flags` are those of the command, to be typed again."""
    meta, status = iteration.metadata, iteration.status
    parts = [f"{meta.name} in {meta.namespace}, {age(iteration, now)} old, generation {meta.generation}"]
    if status.stages:
        parts.append(columns([("STAGE", "STATE", "DONE", "TIME", ""), *map(_stage, status.stages)]))
    if status.conditions:
        rows = [(one.type, one.status, one.reason, one.message) for one in status.conditions]
        parts.append(columns([("CONDITION", "STATUS", "REASON", "MESSAGE"), *rows]))
    parts += outcome(iteration)
    if hint := advice(iteration, flags):
        parts.append(hint)
    return "\n\n".join(parts)


def _stage(stage: StageStatus) -> tuple[str, ...]:
    done = f"{stage.done}/{stage.total}" if stage.total and stage.state != "Done" else ""
    time = clock(seconds(stage)) if stage.start_time else ""
    trouble = f"{stage.reason}: " if stage.reason and stage.state != "Done" else ""
    said = note(stage)
    return (
        stage.name,
        WORDS[stage.state],
        done or (said if stage.state == "Done" else ""),
        time,
        ("" if stage.state == "Done" else trouble + said),
    )


def outcome(iteration: FeedbackIteration) -> list[str]:
    """Did it help, and is it serving: a sentence each, where there is something to say."""
    status = iteration.status
    said: list[str] = []
    if status.hallucination and status.hallucination.aligned:
        effect = status.hallucination
        said.append(f"Answers with a hallucination: {effect.baseline} before, {effect.aligned} after.")
    if status.serving and status.serving.revision:
        serving = status.serving
        said.append(f"Endpoint {serving.endpoint}: {serving.ready_replicas} of {serving.replicas} pods ready.")
    return said


# ── why it does not go on, and what to type ──────────────────────────────────────────────────────────────────────────


def advice(iteration: FeedbackIteration, flags: str = "") -> str:
    """What a person can do now, with commands to type; empty where there is nothing to do but wait or be content."""
    name, status = iteration.metadata.name + flags, iteration.status
    stage = _stopped(iteration)
    if not iteration.looked_at:
        return _typed(
            "The operator has not looked at it yet; if that lasts, see whether the operator runs:",
            "kubectl get pods --all-namespaces -l app.kubernetes.io/name=feedback-operator",
        )
    if iteration.spec.suspend:
        return _typed("It is suspended; to go on:", f"feedback resume {name}")
    if stage and stage.state == "Failed":
        return _typed(
            f"Stage {stage.name} failed: {stage.message}\n"
            "Read its log; change what is wrong, and it goes on by itself; or have it try again as it is:",
            f"feedback logs {stage.name} -i {name}",
            f"kubectl edit fbi {name}",
            f"feedback suspend {name} && feedback resume {name}",
        )
    if stage and stage.state in ("Running", "Suspended") and stage.reason:
        where = f"pods -l {JOB_LABEL}={stage.job}" if stage.state == "Running" else f"job {stage.job}"
        return _typed(
            f"Stage {stage.name} does not get on: {stage.message or stage.reason}", f"kubectl describe {where}{flags}"
        )
    if (parent := iteration.spec.model.from_) and stage and stage.state == "Waiting" and stage == status.stages[0]:
        return _typed(f"It waits for {parent.iteration}:", f"feedback status {parent.iteration}{flags}")
    return _advice_at_the_end(iteration, name, flags)


def _advice_at_the_end(iteration: FeedbackIteration, name: str, flags: str) -> str:
    serving, promoted = condition(iteration, "Serving"), condition(iteration, "Promoted")
    stalled, endpoint = condition(iteration, "Stalled"), iteration.spec.serving and iteration.spec.serving.endpoint
    if endpoint and serving and stalled and stalled.status == "True":
        return _typed(
            f"The endpoint does not serve it: {serving.message}",
            f"kubectl logs -l {ENDPOINT_LABEL}={endpoint} --tail=50{flags}",
            f"kubectl edit fbi {name}",
        )
    if stalled and stalled.status == "True":
        return _typed(f"It is stalled: {stalled.message}", f"kubectl edit fbi {name}")
    if promoted and promoted.status == "False":
        return _typed(f"It was not promoted: {promoted.message}", f"feedback report {name}")
    return ""


def _stopped(iteration: FeedbackIteration) -> StageStatus | None:
    """The stage it is at: the first that is not done."""
    return next((stage for stage in iteration.status.stages if stage.state != "Done"), None)


def _typed(why: str, *commands: str) -> str:
    return "\n".join([why, *(f"  {command}" for command in commands)])


# ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────


def condition(iteration: FeedbackIteration, kind: str) -> Condition | None:
    return next((one for one in iteration.status.conditions if one.type == kind), None)


def settled(iteration: FeedbackIteration) -> bool:
    """Nothing more will happen without a person: the operator has seen the spec, and is done or cannot go on."""
    conditions = iteration.status.conditions
    return iteration.looked_at and (
        iteration.spec.suspend or is_true(conditions, "Ready") or is_true(conditions, "Stalled")
    )


def age(iteration: FeedbackIteration, now: datetime) -> str:
    """`45s`, `12m`, `3h`, `5d`: time since it was created."""
    created = iteration.metadata.creation_timestamp
    passed = int((now - datetime.fromisoformat(created)).total_seconds()) if created else 0
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= 2 * length or (unit != "m" and passed >= length):
            return f"{passed // length}{unit}"
    return f"{max(0, passed)}s"


def now() -> datetime:
    return datetime.now(UTC)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under each other, each column as wide as its widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
