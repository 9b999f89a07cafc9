"""Which family a model is of, and that what it cannot do is refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.contract import BadInput, SamplingConfig, Source
from feedback_workloads.models.families import check, family_of
from feedback_workloads.process.progress import Progress
from feedback_workloads.stages import sampling
from feedback_workloads.storage.artifacts import ArtifactStore

LLAVA = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
OTHERS: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL": {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]},
    "Qwen3-VL": {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]},
    "LLaVA-NeXT": {"model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"]},
    "InternVL": {"model_type": "internvl", "architectures": ["InternVLForConditionalGeneration"]},
    "Pixtral, of LLaVA's class": {**LLAVA, "vision_config": {"model_type": "pixtral"}},
    "a text model": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "of no type": {},
}


def saved(folder: Path, config: dict[str, Any], name: str = "config.json") -> Path:
    folder.mkdir()
    (folder / name).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("vision", [None, "clip_vision_model", "siglip_vision_model"])
def test_trained(vision: str | None, tmp_path: Path) -> None:
    vision_config = {"vision_config": {"model_type": vision}} if vision else {}
    check(family_of(saved(tmp_path / "model", {**LLAVA, **vision_config})), "train", "s3://b/llava")


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_nothing_is_sampled_from_a_policy_that_cannot_be_trained(config: dict[str, Any], tmp_path: Path) -> None:
    """It was found out in the training, by a crash, when all that comes before was paid for."""
    model = saved(tmp_path / "model", config)
    with pytest.raises(BadInput) as refused:
        sampled_from(model, tmp_path)
    message = str(refused.value)
    assert str(model) in message
    assert f"type {config.get('model_type')}" in message
    assert all(name in message for name in config.get("architectures", ()))
    assert "type llava with clip_vision_model or siglip_vision_model" in message


@pytest.mark.parametrize(
    ("file", "words"), [("adapter_config.json", "is a LoRA adapter"), ("params.json", "has no config.json")]
)
def test_nothing_is_sampled_from_half_a_policy(file: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{words}; give a whole model"):
        sampled_from(saved(tmp_path / "model", {}, file), tmp_path)


def sampled_from(model: Path, folder: Path) -> None:
    """Run the stage sampling on one good instruction."""
    instructions = folder / "instructions"
    instructions.mkdir()
    (instructions / "a.png").write_bytes(b"a picture")
    row = {"id": "1", "image": "a.png", "question": "What is it?"}
    (instructions / "train.jsonl").write_text(json.dumps(row) + "\n")
    config = SamplingConfig(
        output=str(folder / "samples"), model=Source(uri=str(model)), instructions=Source(uri=str(instructions))
    )
    sampling.run(config, 0, ArtifactStore(folder / "cache"), Progress("sampling"))
