"""Looks at the models of iterations as their first stage does, without running one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from feedback_operator.api import FeedbackIteration, model_of
from feedback_operator.cli.local import workload
from feedback_operator.stages import Inputs, stages_of
from feedback_workloads.contract import Model


def check_models(iterations: Sequence[FeedbackIteration], state: Path, environment: Mapping[str, str]) -> int:
    """Say of each model whether it can do its part; the exit code of the first iteration that has one that cannot.

    `iterations` are parents before children. A child's policy is not there yet, but is of its parent's family.
    """
    policies: dict[str, Model] = {}
    codes: list[int] = []
    for iteration in iterations:
        name, given = iteration.metadata.name, iteration.spec.model
        policies[name] = policies[given.from_.iteration] if given.from_ else model_of(given)
        file = state / "configs" / f"{name}-models.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        first, *_ = stages_of(iteration.spec)
        file.write_text(first.config(Inputs(iteration.spec, policies[name], {})).model_dump_json())
        codes.append(workload("feedback_workloads.stages.preflight", ["--config", str(file)], state, environment))
    return next(filter(None, codes), 0)
