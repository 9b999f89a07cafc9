"""What stages cost: processors and GPUs that were kept for them, in seconds. Pure.

Held is not used: a pod that waits, for the disk or for others, costs as much as one that computes. What was found
finished cost only the finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from feedback_workloads.contract import counted_gpus
from feedback_workloads.report.iteration import Iteration, StageRecord

CPU: Final = "cpu"


@dataclass(frozen=True)
class Cost:
    """Processor-seconds and GPU-seconds that were held; None where it is not known how many."""

    cpu_seconds: float | None
    gpu_seconds: float | None

    def __add__(self, other: Cost) -> Cost:
        """The sum; not known where a part of it is not."""
        return Cost(_sum(self.cpu_seconds, other.cpu_seconds), _sum(self.gpu_seconds, other.gpu_seconds))

    def to_json(self) -> dict[str, float | None]:
        return {"cpu_seconds": self.cpu_seconds, "gpu_seconds": self.gpu_seconds}


NOTHING: Final = Cost(0.0, 0.0)


def cost(iteration: Iteration, stage: StageRecord) -> Cost:
    """What a stage held.

    Where one machine ran it: what each process was given times the seconds that it ran, over all attempts; one that
    asks for no processors is given all that the machine has. On a cluster: the seconds of the latest attempt's Job,
    from its start to its end, times its pods, times what each of them asks for; not known where that is nothing.
    """
    if iteration.held is not None:
        held = iteration.held.get(stage.name)
        return Cost(held.cpu_seconds, held.gpu_seconds) if held else NOTHING
    if not stage.start_time:
        return NOTHING
    if not stage.completion_time:
        return Cost(None, None)
    pods, cpus = _pods(iteration, stage), _asked(iteration, stage, CPU)
    return Cost(None if cpus is None else stage.seconds * pods * cpus, stage.seconds * pods * _gpus(iteration, stage))


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, NOTHING)


def api_usage(stage: StageRecord) -> dict[str, Any] | None:
    """What a stage paid to an API while its artifact was made; `cost`, in the currency of its price, may be unknown."""
    if not (requests := stage.count("api_requests")):
        return None
    micros = stage.count("api_cost_micros")
    return {
        "requests": requests,
        "input_tokens": stage.count("api_input_tokens"),
        "output_tokens": stage.count("api_output_tokens"),
        "cost": micros / 1_000_000 if micros else None,
    }


def api_words(stage: StageRecord) -> str:
    """The same in a sentence; empty where nothing was paid."""
    if not (usage := api_usage(stage)):
        return ""
    money = "" if usage["cost"] is None else f", for {usage['cost']:,.2f} in the currency of its price"
    return (
        f"{stage.name} asked an API {usage['requests']:,} times: {usage['input_tokens']:,} tokens sent, "
        f"{usage['output_tokens']:,} received{money}."
    )


def _pods(iteration: Iteration, stage: StageRecord) -> int:
    """Pods of the stage's Job: those that share the work, or the nodes that train together."""
    number = iteration.given(stage.name, "nodes") or iteration.given(stage.name, "shards")
    return number if isinstance(number, int) else 1


def _asked(iteration: Iteration, stage: StageRecord, resource: str) -> float | None:
    """What each of its pods asks for, requests before limits; None where they ask for none."""
    for kind in ("requests", "limits"):
        if quantity := iteration.given(stage.name, "resources", kind, resource):
            return _number(quantity)
    return None


def _gpus(iteration: Iteration, stage: StageRecord) -> int:
    """GPUs that each of its pods has, or parts of them, by limits and by claims; a stage without a model gets none."""
    if stage.name == "pairing" or iteration.given(stage.name, "api") or iteration.given(stage.name, "llm", "api"):
        return 0
    if stage.name == "splitting" and not iteration.given("splitting", "llm"):
        return 0
    limits = iteration.given(stage.name, "resources", "limits") or {}
    claims = iteration.given(stage.name, "resources", "claims") or []
    return counted_gpus(limits) + sum(claim.get("devices", 1) for claim in claims)


def _number(quantity: Any) -> float | None:
    """A Kubernetes quantity of processors or GPUs: `500m` is a half."""
    text = str(quantity)
    try:
        number = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
