"""Iterations whose pairs were made elsewhere: what they run, and what they do not say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration
from feedback_operator.stages import FROM_PAIRS, GRAPH, Inputs, stages_of
from feedback_workloads.contract import Artifact, Model, PairingConfig, PublishedPairs, Source, TrainingConfig
from tests.unit.worlds import Simulation, from_pairs, manifest

SOURCE = {"uri": "hf://datasets/openbmb/RLAIF-V-Dataset", "revision": "abc", "sha256": "1" * 64}


def given(**spec: Any) -> FeedbackIteration:
    return FeedbackIteration.model_validate(from_pairs(**spec))


def configs(**spec: Any) -> dict[str, Any]:
    """What each stage is given."""
    inputs = Inputs(
        given(**spec).spec,
        Source(uri="s3://b/policy"),
        {stage.name: (Artifact(uri=f"s3://b/{stage.name}", sha256="a" * 64),) for stage in FROM_PAIRS},
    )
    return {stage.name: stage.addressed_config(inputs) for stage in stages_of(inputs.spec)}


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_runs_from_the_pairs_on() -> None:
    simulation = Simulation(given())
    ran: list[str] = []
    while not ran or ran[-1] != "evaluation":
        simulation.step()
        (job,) = simulation.active()
        ran.append(job.stage)
        simulation.complete(job)
    simulation.step()
    assert ran == ["pairing", "training", "evaluation"]
    assert simulation.states() == dict.fromkeys(ran, "Done")
    assert (simulation.conditions()["Ready"], simulation.conditions()["Promoted"]) == ("True", "True")
    jobs, status = dict(simulation.jobs), simulation.iteration.status
    plan = simulation.step()
    assert (plan.create, simulation.jobs, simulation.iteration.status) == ((), jobs, status)


def test_what_the_stages_are_given() -> None:
    found = configs(pairs={"source": SOURCE}, training={"lora": {}})
    pairing, training = found["pairing"], found["training"]
    assert isinstance(pairing, PairingConfig)
    assert pairing.published == PublishedPairs(source=Source(**SOURCE), model=Model(uri="s3://b/policy"))
    assert (pairing.instructions, pairing.samples, pairing.lora) == (None, (), True)
    assert isinstance(training, TrainingConfig)
    assert (training.reference, training.parity_rows) == ("recomputed", 0), "nothing was sampled"
    assert training.pairs == (Artifact(uri="s3://b/pairing", sha256="a" * 64),)


@pytest.mark.parametrize("name", ["uri", "revision", "sha256"])
def test_other_pairs_are_another_artifact(name: str) -> None:
    other = {**SOURCE, name: "2" * 64}
    outputs = [configs(pairs={"source": source})["pairing"].output for source in (SOURCE, other)]
    assert len(set(outputs)) == 2


def test_an_adapter_needs_no_other_pairs() -> None:
    assert configs()["pairing"].output == configs(training={"lora": {}})["pairing"].output


def test_the_address_of_pairs_that_are_made_here_is_what_it_was() -> None:
    config = PairingConfig(output="", instructions=Source(uri="s3://b/instructions"))
    assert not {"published", "lora"} & config.content().keys()


def test_reading_pairs_takes_no_gpu() -> None:
    simulation = Simulation(given(pairing={"resources": {"limits": {"cpu": "2", "nvidia.com/gpu": "1"}}}))
    (job,) = (made for made in simulation.step().create if made["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "2"}
    assert container["image"] == "train:test"


def test_a_job_of_a_stage_that_is_no_more_is_deleted() -> None:
    """Suspended while it sampled, and edited to take its pairs from elsewhere."""
    simulation = Simulation.of()
    simulation.step()
    (sampling,) = simulation.active()
    simulation.edit(suspend=True)
    simulation.step()
    edited = {**from_pairs()["spec"], "suspend": False}
    before = simulation.iteration
    moved = before.metadata.model_copy(update={"generation": before.metadata.generation + 1})
    spec = FeedbackIteration.model_validate({**manifest(), "spec": edited}).spec
    simulation.iteration = before.model_copy(update={"spec": spec, "metadata": moved})
    assert simulation.step().delete == (sampling.name,)
    assert list(simulation.states()) == ["pairing", "training", "evaluation"]


# ── what does not apply ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(
            {"instructions": {"uri": "s3://b/i"}},
            "give exactly one of pairs and instructions: pairs that are made need no instructions",
            id="instructions",
        ),
        pytest.param(
            {"labeling": {"model": {"uri": "s3://b/l"}}},
            "give exactly one of pairs and labeling: pairs that are made need no labeling",
            id="labeler",
        ),
        pytest.param({"sampling": {"candidates": 4}}, "sampling.candidates, sampling.temperature", id="candidates"),
        pytest.param({"sampling": {"topP": "0.9"}}, "sampling.topP", id="nucleus"),
        pytest.param({"sampling": {"prompts": ["?"]}}, "sampling.prompts", id="prompts"),
        pytest.param({"sampling": {"shards": 2}}, "sampling.shards must not be given with pairs, which", id="shards"),
        pytest.param({"splitting": {"type": "WholeAnswer"}}, "splitting.type", id="splitting"),
        pytest.param({"splitting": {"questionTemplate": "{claim}?"}}, "splitting.questionTemplate", id="question"),
        pytest.param({"splitting": {"sentences": {"language": "de"}}}, "splitting.sentences", id="language"),
        pytest.param({"pairing": {"perInstruction": 1}}, "pairing.perInstruction", id="pairs an instruction"),
        pytest.param({"pairing": {"truth": "shapes"}}, "pairing.truth must not be given with pairs", id="truth"),
    ],
)
def test_what_makes_pairs_is_refused(more: dict[str, Any], message: str) -> None:
    made = from_pairs()
    with pytest.raises(ValidationError, match=message):
        FeedbackIteration.model_validate({**made, "spec": {**made["spec"], **more}})


@pytest.mark.parametrize("section", ["instructions", "labeling"])
def test_without_pairs_all_is_needed(section: str) -> None:
    made = manifest()
    del made["spec"][section]
    with pytest.raises(ValidationError, match=f"give exactly one of pairs and {section}"):
        FeedbackIteration.model_validate(made)


def test_what_applies_to_answers_of_the_evaluation_is_taken() -> None:
    """And pods of stages that do not run may be described, as by a template that many iterations share."""
    found = configs(
        sampling={"maxNewTokens": 64, "maxModelLen": 512, "resources": {"limits": {"cpu": "2"}}},
        splitting={"resources": {"limits": {"cpu": "2"}}},
        pairing={"resources": {"limits": {"cpu": "2"}}},
    )
    assert found["evaluation"].decoding.max_new_tokens == 64
    assert found["evaluation"].engine.max_model_len == 512


def test_both_graphs_share_their_stages() -> None:
    assert [stage.name for stage in FROM_PAIRS] == [stage.name for stage in GRAPH][-3:]
    assert all(need in {"pairing", "training"} for stage in FROM_PAIRS for need in stage.needs)
