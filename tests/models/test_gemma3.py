"""Gemma 3, which is not trained: tokens of its picture see each other both ways, and vLLM computes that on GPUs alone.

Where nothing told of it, an engine on a processor would answer as another model does.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feedback_workloads.contract import BadInput, EngineConfig
from feedback_workloads.engine import Engine
from feedback_workloads.models.families import check_trainable, family_of
from tests.integration.models import picture
from tests.models.builders import gemma3
from tests.models.reference import load, processed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma3(tmp_path_factory.mktemp("gemma3") / "model")


def test_a_policy_is_refused(folder: Path) -> None:
    with pytest.raises(
        BadInput, match=r"of type gemma3 with .*, which lets the tokens of a picture see each other both"
    ):
        check_trainable(family_of(folder), "hf://google/gemma-3-4b-it", lora=False)


def test_its_tokens_of_a_picture_see_each_other(folder: Path) -> None:
    """By so much an engine without that is wrong: what the picture's first token becomes tells of the last one."""
    family, network = family_of(folder), load(folder)
    given = processed(family, ["what is it?"], [picture(1, 120, 80)])
    with torch.no_grad():
        both_ways = network(**given).logits[0, -1].log_softmax(-1)
        alone = network(**{name: one for name, one in given.items() if name != "token_type_ids"}).logits[0, -1]
    assert (both_ways - alone.log_softmax(-1)).abs().max() > 0.01


@pytest.mark.long
def test_an_engine_on_a_processor_is_shown_no_picture(folder: Path) -> None:
    """It may divide answers: text alone is read one way by all."""
    family = family_of(folder)
    with Engine.load(family, EngineConfig(max_model_len=256, max_num_seqs=4)) as engine:
        with pytest.raises(BadInput, match="which vLLM computes on GPUs alone"):
            engine.check(family.prompt("what is it?", picture(1, 120, 80), "verdict"))
        engine.check(family.text_prompt("List the facts."))
