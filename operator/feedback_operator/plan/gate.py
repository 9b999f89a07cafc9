"""What the aligned policy must reach to be promoted, on the selection split: what decides is not what is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from feedback_operator.api import EvaluationSpec, GateRule


@dataclass(frozen=True)
class Checked:
    """A rule, for people: what it is about, what is wanted of it, what was measured, and why that breaks it.

    `broken` is a sentence, empty where the rule is met.
    """

    subject: str
    wanted: str
    measured: str
    broken: str


def checked(evaluation: EvaluationSpec, metrics: Mapping[str, str]) -> tuple[Checked, ...]:
    """Each rule of the gate, by what the evaluation measured."""
    first = evaluation.benchmarks[0].name
    return tuple(_checked(rule, rule.reads(first), metrics) for rule in evaluation.gate)


def broken_rules(evaluation: EvaluationSpec, metrics: Mapping[str, str]) -> tuple[str, ...]:
    """Say of each rule that the aligned policy does not meet what it measured and what was wanted."""
    return tuple(one.broken for one in checked(evaluation, metrics) if one.broken)


def all_measured(evaluation: EvaluationSpec, metrics: Mapping[str, str]) -> bool:
    """Whether every rule finds what it is about: an evaluation of an earlier version measured less."""
    first = evaluation.benchmarks[0].name
    return all(metrics.get(name) for rule in evaluation.gate for name in rule.reads(first).values())


def _checked(rule: GateRule, reads: Mapping[str, str], metrics: Mapping[str, str]) -> Checked:
    """By the metrics that the rule reads, see `GateRule.reads`."""
    found = {what: _number(metrics, name) for what, name in reads.items()}
    subject = f"{rule.metric} of {rule.benchmark}" if rule.benchmark else str(rule.metric)
    aligned, baseline = found["aligned"], found.get("baseline")
    if rule.relative_to is None:
        return Checked(subject, _wanted(rule), _shown(aligned), _outside(rule, aligned, subject))
    subject = f"{subject} relative to the baseline"
    if baseline == 0:
        bound = "min" if rule.max is None else "max"
        broken = f"{subject}: the baseline's is 0, so no ratio is defined; give {bound} without relativeTo"
        return Checked(subject, _wanted(rule), _shown(None), broken)
    ratio = aligned / baseline if aligned is not None and baseline else None
    if ratio is None or rule.use != "Interval":
        return Checked(subject, _wanted(rule), _shown(ratio), _outside(rule, ratio, subject))
    low, high = found["low"], found["high"]
    if low is None or high is None:
        broken = (
            f"{subject} has no interval on the selection split: the baseline's, {baseline}, is so near 0 that little "
            "is left to gain (or the evaluation is of an earlier version: run it again); to go on, use Value"
        )
        return Checked(subject, _wanted(rule), _shown(ratio), broken)
    measured = f"{ratio:.2f} ({low:.2f}-{high:.2f})"
    broken = _not_wholly_inside(rule, low, high, f"{subject} is {measured} on the selection split")
    return Checked(subject, _wanted(rule), measured, broken)


def _wanted(rule: GateRule) -> str:
    bounds = [("at least", "above", rule.min), ("at most", "below", rule.max)]
    if rule.use == "Interval":
        return " and ".join(f"wholly {beyond} {bound}" for _, beyond, bound in bounds if bound is not None)
    return " and ".join(f"{within} {bound}" for within, _, bound in bounds if bound is not None)


def _shown(value: Decimal | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _outside(rule: GateRule, value: Decimal | None, subject: str) -> str:
    if value is None:
        return f"{subject} was not measured on the selection split"
    if rule.max is not None and value > Decimal(rule.max):
        return f"{subject} is {value:.4g} on the selection split, above {rule.max}"
    if rule.min is not None and value < Decimal(rule.min):
        return f"{subject} is {value:.4g} on the selection split, below {rule.min}"
    return ""


def _not_wholly_inside(rule: GateRule, low: Decimal, high: Decimal, measured: str) -> str:
    """An interval that touches a bound is outside: an aligned policy that is the baseline gains nothing."""
    if rule.max is not None and high >= Decimal(rule.max):
        return f"{measured}, not wholly below {rule.max}"
    if rule.min is not None and low <= Decimal(rule.min):
        return f"{measured}, not wholly above {rule.min}"
    return ""


def _number(metrics: Mapping[str, str], name: str) -> Decimal | None:
    return Decimal(metrics[name]) if metrics.get(name) else None
