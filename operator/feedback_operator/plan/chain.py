"""What an iteration that follows another one (`spec.model.from`) sees of it."""

from __future__ import annotations

from collections.abc import Mapping

from feedback_operator.api import FeedbackIteration
from feedback_operator.plan.snapshot import Parent
from feedback_workloads.contract import Model


def parent_of(child: FeedbackIteration, iterations: Mapping[str, FeedbackIteration]) -> Parent | None:
    """The parent of `child` among the iterations of its namespace, by name; None where it names none.

    Whenever an iteration changes, those that name it in `spec.model.from` need another look.
    """
    named = child.spec.model.from_
    if named is None:
        return None
    name = named.iteration
    if circle := _circle(child, iterations):
        message = f"spec.model.from goes round in a circle: {' -> '.join(circle)}; give one of them a model of its own"
        return Parent(name, reason="ParentCycle", message=message, final=True)
    parent = iterations.get(name)
    if parent is None:
        message = f"there is no FeedbackIteration {name} in namespace {child.metadata.namespace}; create it"
        return Parent(name, reason="ParentMissing", message=message)
    return _outcome(parent)


def _outcome(parent: FeedbackIteration) -> Parent:
    """What there is to say of the parent as its spec is now: of one that was just edited, nothing yet."""
    name, aligned, started_from = parent.metadata.name, parent.status.aligned, parent.status.model
    promoted, stalled = parent.says("Promoted"), parent.says("Stalled")
    if aligned and promoted and promoted.status == "True":
        where = {"uri": aligned.uri, "revision": aligned.revision, "sha256": aligned.sha256}
        # It is asked as the model that it was made of.
        model = started_from.model.model_copy(update=where) if started_from else Model(**where)
        return Parent(name, model)
    if parent.metadata.deletion_timestamp:
        return Parent(name, reason="ParentMissing", message=f"iteration {name} is being deleted; create it again")
    if parent.spec.only:
        message = f"iteration {name} trains nothing, its spec.only being Evaluation; follow one that does"
        return Parent(name, reason="ParentTrainsNothing", message=message, final=True)
    if promoted and promoted.status == "False":
        message = f"iteration {name} did not pass its gate: {promoted.message[:1000]}"
        return Parent(name, reason="ParentGateFailed", message=message, final=True)
    if stalled and stalled.status == "True":
        message = f"iteration {name} is stalled: {stalled.message[:1000]}"
        return Parent(name, reason="ParentStalled", message=message, final=True)
    return Parent(name, reason="WaitingForParent", message=f"waits for iteration {name} to be promoted")


def _circle(child: FeedbackIteration, iterations: Mapping[str, FeedbackIteration]) -> list[str]:
    """The names along `spec.model.from` where they lead back to `child`; empty where they do not."""
    names, at = [child.metadata.name], child
    while at.spec.model.from_ is not None:
        name = at.spec.model.from_.iteration
        if name == child.metadata.name:
            return [*names, name]
        if name in names or name not in iterations:
            return []
        names.append(name)
        at = iterations[name]
    return []
