"""Which family a model is of, and that what it cannot do is refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.contract import BadInput, SamplingConfig, Source
from feedback_workloads.models.adapters import merge
from feedback_workloads.models.families import check, family_of
from feedback_workloads.models.internvl import InternVL
from feedback_workloads.models.llava import Llava
from feedback_workloads.models.llava_next import LlavaNext
from feedback_workloads.models.omnilmm.family import OmniLMM
from feedback_workloads.models.qwen_vl import Qwen3VL, Qwen25VL
from feedback_workloads.models.standard import Standard
from feedback_workloads.process.progress import Progress
from feedback_workloads.stages import sampling
from feedback_workloads.storage.artifacts import ArtifactStore

Made = dict[str, Any]
"""The content of a config.json."""

LLAVA: Made = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
OTHERS: dict[str, Made] = {
    "Gemma 3": {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"a": 1}},
    "Pixtral, of LLaVA's class": {**LLAVA, "vision_config": {"model_type": "pixtral"}},
    "InternVL with code of its own": {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]},
    "the first LLaVA's layout": {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]},
    "a text model": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "of no type": {},
}
"""None of them is trained; of their types, as transformers and the models' own code name them."""


def of_type(kind: str, **more: Any) -> Made:
    return {"model_type": kind, **more}


def saved(folder: Path, config: Made, name: str = "config.json") -> Path:
    folder.mkdir()
    (folder / name).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "family", "shares"),
    [
        pytest.param(LLAVA, Llava, True, id="LLaVA-1.5, as it was first saved"),
        pytest.param(of_type("llava", vision_config=of_type("siglip_vision_model")), Llava, True, id="with SigLIP"),
        pytest.param(of_type("llava", text_config=of_type("lfm2")), Llava, False, id="with LFM2"),
        pytest.param(of_type("llava_next", text_config=of_type("mistral")), LlavaNext, True, id="LLaVA-NeXT"),
        pytest.param(of_type("qwen2_5_vl", hidden_size=3584), Qwen25VL, True, id="Qwen2.5-VL, as it was first saved"),
        pytest.param(of_type("qwen2_5_vl", text_config=of_type("qwen2_5_vl_text")), Qwen25VL, True, id="Qwen2.5-VL"),
        pytest.param(of_type("qwen3_vl", text_config=of_type("qwen3_vl_text")), Qwen3VL, True, id="Qwen3-VL"),
        pytest.param(of_type("internvl", text_config=of_type("qwen3")), InternVL, True, id="InternVL"),
        pytest.param(of_type("internvl", text_config=of_type("gpt_oss")), InternVL, False, id="InternVL with GPT-OSS"),
        pytest.param(of_type("feedback_omnilmm", text_config=of_type("mistral")), OmniLMM, True, id="OmniLMM"),
    ],
)
def test_trained(config: Made, family: type[Standard], shares: bool, tmp_path: Path) -> None:
    found = family_of(saved(tmp_path / "model", config))
    assert type(found) is family
    assert ("share-prompts" in found.capabilities) == shares
    for capability in ("sample", "label", "split", "train"):
        check(found, capability, "s3://b/model")  # type: ignore[arg-type]
    if shares:
        check(found, "lora", "s3://b/model")


@pytest.mark.parametrize(
    ("name", "judges"), [("Gemma 3", True), ("Pixtral, of LLaVA's class", True), ("a text model", False)]
)
def test_a_labeler_is_whatever_sees(name: str, judges: bool, tmp_path: Path) -> None:
    family = family_of(saved(tmp_path / "model", OTHERS[name]))
    check(family, "split", "s3://b/model")
    if judges:
        check(family, "label", "s3://b/model")
        return
    with pytest.raises(BadInput, match=r"the model s3://b/model is of type llama .*, which sees no pictures"):
        check(family, "label", "s3://b/model")


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_nothing_is_sampled_from_a_policy_that_cannot_be_trained(config: Made, tmp_path: Path) -> None:
    """It was found out in the training, by a crash, when all that comes before was paid for."""
    model = saved(tmp_path / "model", config)
    with pytest.raises(BadInput) as refused:
        sampled_from(model, tmp_path)
    message = str(refused.value)
    assert str(model) in message
    assert f"type {config.get('model_type')}" in message
    assert all(name in message for name in config.get("architectures", ()))
    assert "type llava with clip_vision_model or siglip_vision_model; llava_next" in message
    assert "qwen2_5_vl; qwen3_vl; internvl; smolvlm; omnilmm" in message


def test_an_adapter_that_nobody_could_serve_is_not_trained(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", of_type("llava", text_config=of_type("lfm2")))
    with pytest.raises(BadInput, match=r"of type llava with lfm2 .* leave spec\.training\.lora out"):
        sampled_from(model, tmp_path, lora=True)


@pytest.mark.parametrize(
    ("file", "words"),
    [("adapter_config.json", "names no base_model_name_or_path"), ("params.json", "has no config.json; give a whole")],
)
def test_nothing_is_sampled_from_half_a_policy(file: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words):
        sampled_from(saved(tmp_path / "model", {}, file), tmp_path)


def sampled_from(model: Path, folder: Path, *, lora: bool = False) -> None:
    """Run the stage sampling on one good instruction."""
    instructions = folder / "instructions"
    instructions.mkdir()
    (instructions / "a.png").write_bytes(b"a picture")
    row = {"id": "1", "image": "a.png", "question": "What is it?"}
    (instructions / "train.jsonl").write_text(json.dumps(row) + "\n")
    config = SamplingConfig(
        output=str(folder / "samples"),
        model=Source(uri=str(model)),
        instructions=Source(uri=str(instructions)),
        lora=lora,
    )
    sampling.run(config, 0, ArtifactStore(folder / "cache"), Progress("sampling"))


@pytest.mark.parametrize("more", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_an_adapter_that_is_more_than_a_product_is_not_merged(more: Made, tmp_path: Path) -> None:
    adapter = saved(
        tmp_path / "adapter", {"peft_type": "LORA", "r": 8, "lora_alpha": 16, **more}, "adapter_config.json"
    )
    with pytest.raises(BadInput, match="merge it with peft, and name the whole model instead"):
        merge(tmp_path / "base", adapter, tmp_path / "merged")
