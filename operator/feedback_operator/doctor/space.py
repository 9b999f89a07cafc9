"""Room for models: what the pods of each section download, and where they keep it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from feedback_operator.api import FeedbackIteration, IterationSpec
from feedback_operator.doctor.facts import Facts, Finding, quantity
from feedback_operator.doctor.needs import Need, order_of

SPARE: Final = Decimal("0.1")
"""Of a cache, beyond the models themselves: lock files, what is unpacked."""


def check_space(facts: Facts, iteration: FeedbackIteration, needs: Sequence[Need]) -> Iterator[Finding]:
    """The cache of each section holds the models that its pods download, as far as pods have told their sizes."""
    sizes = {
        look.what.removeprefix("model "): look.bytes
        for trial in (facts.trials if isinstance(facts.trials, tuple) else ())
        for look in (trial.report.looks if trial.report else ())
        if look.bytes
    }
    for need in needs:
        models = {model.uri for model in order_of(iteration.spec, [need.name]).models}
        if models and models <= set(sizes):
            yield _space(facts, need, _downloaded(iteration.spec, need.name, sum(sizes[uri] for uri in models)))


def _downloaded(spec: IterationSpec, name: str, models: int) -> Decimal:
    """Bytes in the cache of a pod, of which the models alone are `models`."""
    match name:
        case "evaluation" if spec.training.lora is None:  # one after the other, every checkpoint
            return Decimal(models * (1 + spec.training.epochs * spec.training.checkpoints_per_epoch))
        case "serving" if spec.training.lora is None:  # the policy, and its reference
            return Decimal(2 * models)
    return Decimal(models)


def _space(facts: Facts, need: Need, wanted: Decimal) -> Finding:
    check, cache = f"{need.name}: cache", need.section.pod.cache
    enough = f"{math.ceil(wanted * (1 + SPARE) / 2**30)}Gi"
    told = f"its models have {wanted / 2**30:.1f} GiB"
    if cache and cache.claim_name:
        return Finding(check, "ok", f"{told}, and the claim {cache.claim_name} keeps them")
    given = cache and (cache.ephemeral.size if cache.ephemeral else cache.size_limit)
    if given and quantity(given) < wanted:
        what = "ephemeral.size" if cache and cache.ephemeral else "sizeLimit"
        return Finding(
            check,
            "failed",
            f"{told}, and pod.cache.{what} is {given}",
            f"raise {need.field}.pod.cache.{what} to {enough}",
        )
    if given:
        return Finding(check, "ok", f"{told}, and pod.cache has {given}")
    disks = [
        quantity(node["status"]["allocatable"].get("ephemeral-storage", 0))
        for node in (facts.nodes if isinstance(facts.nodes, tuple) else ())
    ]
    if disks and max(disks) < wanted * (1 + SPARE):
        return Finding(
            check,
            "failed",
            f"{told}, and no node's disk has more than {max(disks) / 2**30:.1f} GiB for pods",
            f"give {need.field}.pod.cache.ephemeral with size {enough}, or nodes larger disks",
        )
    return Finding(check, "ok", f"{told}; pod.cache.sizeLimit {enough} would bound what they take of their node's disk")
