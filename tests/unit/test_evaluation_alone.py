"""Iterations that evaluate a model as it is: what they run, how they end, and what they do not say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli.ending import ExitStatus, endings, exit_status
from feedback_operator.plan.chain import parent_of
from feedback_operator.stages import GRAPH, Inputs, stages_of
from feedback_workloads.contract import Artifact, EvaluationConfig, Model
from tests.unit.worlds import Simulation, alone, manifest


def given(**spec: Any) -> FeedbackIteration:
    return FeedbackIteration.model_validate(alone(**spec))


def finished(**spec: Any) -> Simulation:
    simulation = Simulation(given(**spec))
    simulation.step()
    (job,) = simulation.active()
    assert job.stage == "evaluation"
    simulation.complete(job)
    simulation.step()
    return simulation


def test_it_runs_the_evaluation_alone_and_ends_well() -> None:
    simulation = finished()
    assert simulation.states() == {"evaluation": "Done"}
    assert (simulation.conditions()["Ready"], simulation.conditions()["Stalled"]) == ("True", "False")
    assert simulation.told("Promoted") == (
        "False", "NothingTrained", "spec.only is Evaluation: nothing is trained, so nothing promoted"
    )  # fmt: skip
    assert simulation.iteration.status.promoted is None
    jobs, status = dict(simulation.jobs), simulation.iteration.status
    plan = simulation.step()
    assert (plan.create, plan.apply, simulation.jobs, simulation.iteration.status) == ((), (), jobs, status)


def test_the_command_that_ran_it_ends_well() -> None:
    ended = finished().iteration
    [ending] = endings([ended])
    assert (ending.how, ending.kept) == ("evaluated", None)
    assert exit_status([ended]) == ExitStatus.PROMOTED
    assert exit_status([given()]) == ExitStatus.FAILED  # not at its end


def test_whoever_follows_it_is_told_that_it_trains_nothing() -> None:
    parent = finished().iteration
    named = {**manifest(model={"from": {"iteration": "it"}}), "metadata": {"name": "child"}}
    child = FeedbackIteration.model_validate(named)
    found = parent_of(child, {parent.metadata.name: parent})
    assert found is not None
    assert (found.reason, found.final) == ("ParentTrainsNothing", True)
    assert found.message == "iteration it trains nothing, its spec.only being Evaluation; follow one that does"


def test_what_the_stage_is_given() -> None:
    """As in an iteration, but for the policy; so its address is its own, and an iteration's is what it was."""
    spec = given(sampling={"maxNewTokens": 64, "maxModelLen": 256}).spec
    (stage,) = stages_of(spec)
    config = stage.addressed_config(Inputs(spec, Model(uri="s3://b/policy"), {}))
    assert isinstance(config, EvaluationConfig)
    assert (config.policy, config.decoding.max_new_tokens, config.engine.max_model_len) == ((), 64, 256)
    whole = FeedbackIteration.model_validate(manifest(sampling={"maxNewTokens": 64, "maxModelLen": 256})).spec
    artifacts = {one.name: (Artifact(uri="s3://b/a", sha256="0" * 64),) for one in GRAPH}
    other = stages_of(whole)[-1].addressed_config(Inputs(whole, Model(uri="s3://b/policy"), artifacts))
    assert isinstance(other, EvaluationConfig)
    assert other.model_copy(update={"policy": (), "output": config.output}).content() == config.content()
    assert not {"choice", "gated", "gate_metrics"} & config.content().keys()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"only": None}, "give exactly one of pairs and instructions"),
        ({"only": "evaluation"}, "Input should be 'Evaluation'"),
        *(
            (one, "with only Evaluation nothing is trained, chosen, promoted or served: leave out")
            for one in (
                {"instructions": {"uri": "s3://b/i"}},
                {"pairs": {"source": {"uri": "s3://b/p"}}},
                {"labeling": {"model": {"uri": "s3://b/l"}}},
                {"serving": {}},
                {"evaluation": {"gate": [{"metric": "recall", "min": "0.5"}]}},
                {"evaluation": {"choice": {"metric": "recall"}}},
                {"evaluation": {"rewardOnBaseline": "Enabled"}},
            )
        ),
        ({"sampling": {"candidates": 4}}, "sampling.shards must not be given with only, with which nothing is trained"),
        ({"pairing": {"truth": "shapes"}}, "pairing.truth must not be given with only"),
        ({"training": {"epochs": 1}}, "training.parityLimit must not be given with only"),
        ({"training": {"lora": {}}}, "training.parityLimit must not be given with only"),
    ],
)
def test_what_does_not_apply_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        given(**more)
    assert message in str(error.value)
