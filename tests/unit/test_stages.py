"""Configurations of stages, as they follow from a spec."""

from __future__ import annotations

import pytest

from feedback_operator.stages import GRAPH, STAGES, Inputs, Stage, gpus
from feedback_workloads.contract import Artifact, EngineConfig, Source, StageConfig, TrainingConfig
from tests.unit.worlds import iteration, manifest

SECTIONS = (*STAGES, "serving")
OURS = {section: {"resources": {"limits": {"nvidia.com/gpu": number}}} for number, section in enumerate(SECTIONS, 2)}
"""Sections whose pods all have another number of GPUs."""


def config_of(stage: Stage, **sections: object) -> StageConfig:
    """What a stage is given in an iteration with these sections."""
    given = {name: (Artifact(uri=f"s3://b/{name}", sha256="a" * 64),) for name in STAGES}
    return stage.addressed_config(Inputs(iteration(**sections).spec, Source(uri="s3://b/policy"), given))


def engine_of(stage: Stage, **sections: object) -> EngineConfig | None:
    return getattr(config_of(stage, **sections), "engine", None)


@pytest.mark.parametrize("stage", GRAPH, ids=lambda stage: stage.name)
def test_no_engine_asks_for_the_gpus_of_another_stages_pods(stage: Stage) -> None:
    given = manifest()["spec"]
    sections = {name: {**given.get(name, {}), **section} for name, section in OURS.items()}
    engine = engine_of(stage, **sections)
    assert (engine is None) == (stage.image == "train")
    if engine:
        assert engine.tensor_parallel_size == gpus(iteration(**sections).spec.section(stage.name))


def test_a_model_has_one_context_length_wherever_it_answers() -> None:
    labeling = {**manifest()["spec"]["labeling"], "maxModelLen": 8192}
    sections = {"sampling": {"maxModelLen": 4096}, "splitting": {"maxModelLen": 2048}, "labeling": labeling}
    lengths = {name: engine.max_model_len for name, stage in STAGES.items() if (engine := engine_of(stage, **sections))}
    assert lengths == {"sampling": 4096, "splitting": 2048, "labeling": 8192, "evaluation": 4096}


def test_answers_to_other_prompts_are_scored_again_before_they_train() -> None:
    """Their log-probabilities under those prompts are not those under the instruction."""
    plain, styles = (
        config_of(STAGES["training"], sampling=sampling) for sampling in ({}, {"prompts": ["Name it.", "Say more."]})
    )
    assert isinstance(plain, TrainingConfig)
    assert isinstance(styles, TrainingConfig)
    assert (plain.reference, plain.parity_rows) == ("sampled", 16)
    assert (styles.reference, styles.parity_rows) == ("recomputed", 0)
