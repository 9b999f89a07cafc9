"""Status from observations: conditions that kstatus understands, and the verdict of the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from feedback_operator.api import Condition, GateRule

METRICS: Final = {
    "responseHallucination": "response_hallucination",
    "mentionHallucination": "mention_hallucination",
    "recall": "recall",
    "meanWords": "mean_words",
}
"""Name of a gate's metric in the spec, and in the scores stage's metrics."""


def timestamp(moment: datetime | None) -> str:
    """RFC 3339 in UTC with seconds, as the Kubernetes API writes times; empty for None."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


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
