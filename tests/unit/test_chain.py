"""What an iteration sees of the one that it follows."""

from __future__ import annotations

import pytest

from feedback_operator.api import Condition, FeedbackIteration, ResolvedModel
from feedback_operator.plan.chain import parent_of
from feedback_workloads.contract import Model
from tests.unit.worlds import iteration, promoted, with_metadata


def follows(parent: str, name: str = "child") -> FeedbackIteration:
    return with_metadata(iteration(model={"from": {"iteration": parent}}), name=name)


def named(name: str, **conditions: tuple[str, str]) -> FeedbackIteration:
    """An iteration of its own model with these conditions: status and message."""
    told = [
        Condition(type=kind, status=status, reason="Why", message=message, observed_generation=1)  # type: ignore[arg-type]
        for kind, (status, message) in conditions.items()
    ]
    found = with_metadata(iteration(), name=name)
    return found.model_copy(update={"status": found.status.model_copy(update={"conditions": told})})


def test_an_iteration_of_its_own_has_no_parent() -> None:
    assert parent_of(iteration(), {}) is None


def test_the_model_that_the_parent_promoted() -> None:
    parent = parent_of(follows("first"), {"first": promoted("first", "u-9")})
    assert parent is not None
    assert parent.model is not None
    assert (parent.model.uri, parent.model.sha256) == ("s3://b/artifacts/training/x/checkpoint-000010", "a" * 64)


def test_it_is_asked_as_the_parent_asked_it() -> None:
    first = promoted("first", "u-9")
    started = ResolvedModel(uri="s3://b/policy", system_prompt="Be brief.", processor_kwargs={"max_pixels": 9})
    first = first.model_copy(update={"status": first.status.model_copy(update={"model": started})})
    parent = parent_of(follows("first"), {"first": first})
    assert parent is not None
    assert parent.model == Model(
        uri="s3://b/artifacts/training/x/checkpoint-000010",
        sha256="a" * 64,
        system_prompt="Be brief.",
        processor_kwargs={"max_pixels": 9},
    )


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(promoted("first", "u-9"), id="promoted"),
        pytest.param(named("first", Promoted=("False", "recall is 0.5, below 1")), id="gate failed"),
        pytest.param(named("first", Stalled=("True", "sampling: out of memory")), id="stalled"),
    ],
)
def test_a_child_never_trains_from_a_stale_parent(before: FeedbackIteration) -> None:
    """What is said of a parent before its edit was looked at says nothing of it."""
    parent = parent_of(follows("first"), {"first": with_metadata(before, generation=2)})
    assert parent is not None
    assert (parent.model, parent.reason, parent.final) == (None, "WaitingForParent", False)


@pytest.mark.parametrize(
    ("others", "reason", "final", "message"),
    [
        pytest.param([], "ParentMissing", False, "there is no FeedbackIteration first", id="not there"),
        pytest.param([named("first")], "WaitingForParent", False, "waits for iteration first", id="not finished"),
        pytest.param(
            [named("first", Promoted=("False", "recall is 0.5, below 1"))],
            "ParentGateFailed",
            True,
            "iteration first did not pass its gate: recall is 0.5, below 1",
            id="gate failed",
        ),
        pytest.param(
            [named("first", Stalled=("True", "sampling: out of memory"))],
            "ParentStalled",
            True,
            "iteration first is stalled: sampling: out of memory",
            id="stalled",
        ),
        pytest.param(
            [follows("child", "first")], "ParentCycle", True, "circle: child -> first -> child;", id="a circle of two"
        ),
        pytest.param(
            [follows("second", "first"), follows("child", "second")],
            "ParentCycle",
            True,
            "circle: child -> first -> second -> child;",
            id="a circle of three",
        ),
        pytest.param(
            [follows("second", "first"), follows("first", "second")],
            "WaitingForParent",
            False,
            "waits for iteration first",
            id="a circle above, which stalls those in it",
        ),
        pytest.param(
            [with_metadata(named("first"), deletion_timestamp="2026-01-01T00:00:00Z")],
            "ParentMissing",
            False,
            "iteration first is being deleted",
            id="being deleted",
        ),
    ],
)
def test_why_there_is_no_model(others: list[FeedbackIteration], reason: str, final: bool, message: str) -> None:
    parent = parent_of(follows("first"), {other.metadata.name: other for other in others})
    assert parent is not None
    assert (parent.model, parent.reason, parent.final) == (None, reason, final)
    assert message in parent.message


def test_an_iteration_that_follows_itself_goes_round_in_a_circle() -> None:
    child = follows("child")
    parent = parent_of(child, {"child": child})
    assert parent is not None
    assert parent.reason == "ParentCycle"
