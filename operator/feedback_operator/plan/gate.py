"""What the aligned policy must reach to be promoted, on the selection split: what decides is not what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from feedback_operator.api import GateRule

METRICS: Final = {
    "responseHallucination": "response_hallucination",
    "mentionHallucination": "mention_hallucination",
    "recall": "recall",
    "meanWords": "mean_words",
}
"""Name of a gate's metric in the spec, and the last part of its name in the evaluation's metrics."""


def broken_rules(gate: Sequence[GateRule], metrics: Mapping[str, str]) -> tuple[str, ...]:
    """Say of each rule that the aligned policy does not meet what it measured and what was wanted."""
    return tuple(text for rule in gate if (text := _broken(rule, metrics)))


def _broken(rule: GateRule, metrics: Mapping[str, str]) -> str:
    name, subject = METRICS[rule.metric], str(rule.metric)
    value = _number(metrics, f"selection.aligned.{name}")
    if value is not None and rule.relative_to == "Baseline":
        baseline, subject = _number(metrics, f"selection.baseline.{name}"), f"{rule.metric} relative to the baseline"
        value = value / baseline if baseline else None
    if value is None:
        return f"{subject} was not measured on the selection split"
    if rule.max is not None and value > Decimal(rule.max):
        return f"{subject} is {value:.4g} on the selection split, above {rule.max}"
    if rule.min is not None and value < Decimal(rule.min):
        return f"{subject} is {value:.4g} on the selection split, below {rule.min}"
    return ""


def _number(metrics: Mapping[str, str], name: str) -> Decimal | None:
    return Decimal(metrics[name]) if metrics.get(name) else None
