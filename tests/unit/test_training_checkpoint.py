"""Weights are renamed for vLLM without being loaded."""

import json
import struct
from pathlib import Path

import pytest

from feedback_workloads.models.families import name_weights
from feedback_workloads.models.llava import Llava


def write_safetensors(file: Path, names: list[str]) -> None:
    header = {"__metadata__": {"format": "pt"}}
    header |= {n: {"dtype": "U8", "shape": [4], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(bytes([i] * 4) for i in range(len(names))))


def read_safetensors(file: Path) -> dict[str, bytes]:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {n: data[slice(*e["data_offsets"])] for n, e in header.items() if n != "__metadata__"}


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        ("vision_tower.encoder.layers.0.mlp.fc1.weight", "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "vision_tower.vision_model.pre_layrnorm.bias"),
        ("language_model.model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
        ("__metadata__", "__metadata__"),
    ],
)
def test_a_tower_is_where_vllm_looks_for_it(given: str, expect: str, tmp_path: Path) -> None:
    assert Llava(tmp_path, {}).saved_name(given) == expect


@pytest.mark.parametrize(("tower", "renamed"), [("clip_vision_model", True), ("pixtral", False)])
def test_convert_renames_header_and_index_only(tmp_path: Path, tower: str, renamed: bool) -> None:
    names = ["language_model.model.norm.weight", "vision_tower.embeddings.class_embedding"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {"model_type": tower}}))
    write_safetensors(tmp_path / "model-00001-of-00001.safetensors", names)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}))

    name_weights(tmp_path)
    name_weights(tmp_path)

    expect = [names[0], "vision_tower.vision_model.embeddings.class_embedding" if renamed else names[1]]
    tensors = read_safetensors(tmp_path / "model-00001-of-00001.safetensors")
    assert tensors == {expect[0]: b"\0" * 4, expect[1]: b"\1" * 4}
    assert set(json.loads(index.read_text())["weight_map"]) == set(expect)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model-00001-of-00001.safetensors", index.name]
