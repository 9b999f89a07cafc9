"""All that the doctor looks at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from feedback_operator.api import FeedbackIteration
from feedback_operator.doctor.control import (
    check_definition,
    check_namespace,
    check_operator,
    check_operators_rights,
    check_user,
    check_version,
    house_of,
    operator_for,
)
from feedback_operator.doctor.facts import Facts, Finding, Object
from feedback_operator.doctor.needs import Need
from feedback_operator.doctor.nodes import check_fit, check_gpus
from feedback_operator.doctor.space import check_space
from feedback_operator.doctor.trials import check_trials
from feedback_operator.doctor.within import (
    check_admission,
    check_named,
    check_queue,
    check_quotas,
    check_secrets,
    check_storage,
)


def examine(
    facts: Facts, iteration: FeedbackIteration | None, needs: Sequence[Need], pods: Mapping[str, Object]
) -> Iterator[Finding]:
    """Say of everything how it is. `needs` and `pods` are those of the iteration, each pod by its section.

    Without an iteration, what follows from one is left out.
    """
    own = needs if iteration else ()
    yield check_version(facts, several_shards=any(need.pods > 1 for need in own))
    yield check_definition(facts)
    yield from check_namespace(facts)
    yield from check_operator(facts)
    yield check_user(facts)
    yield check_operators_rights(facts)
    if iteration:
        yield from _house_rules(facts, iteration)
        yield from check_named(facts, iteration, own)
        yield from check_secrets(facts, own)
    yield from check_gpus(facts, own)
    for need in own:
        yield check_fit(facts, need, pods[need.name])
    yield from check_storage(facts, own)
    yield from check_quotas(facts, own, pods)
    if iteration:
        yield from check_queue(facts, iteration, own, pods)
        yield from check_admission(facts, own)
    yield from check_trials(facts, needs)
    if iteration:
        yield from check_space(facts, iteration, own)


def _house_rules(facts: Facts, iteration: FeedbackIteration) -> Iterator[Finding]:
    """What whoever runs the operator allows."""
    deployment = operator_for(facts)
    if deployment is not None and (broken := house_of(deployment).broken_by(iteration)):
        told, _, remedy = broken.rpartition("; ")
        yield Finding("house rules", "failed", told, remedy)
