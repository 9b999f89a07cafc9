"""Checkpoints that transformers and vLLM load alike."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

NESTED_TOWERS = frozenset({"clip_vision_model", "siglip_vision_model"})
"""Vision towers whose weights vLLM expects below `vision_model.`."""

FLAT_TOWER = re.compile(r"^vision_tower\.(?!vision_model\.)")

INDEX_NAME = "model.safetensors.index.json"


def convert_for_vllm(directory: Path) -> None:
    """Rename the weights of the Hugging Face model in `directory`, in place, so that vLLM loads it too.

    transformers 5 saves a LLaVA that was built from its configuration with `vision_tower.encoder...`, where vLLM wants
    `vision_tower.vision_model.encoder...`; transformers reads both. Folders that need nothing stay as they are, so
    converting twice is harmless. Tensors are copied as bytes: none is loaded, and any size works.
    """
    config = json.loads((directory / "config.json").read_text())
    if config.get("vision_config", {}).get("model_type") not in NESTED_TOWERS:
        return
    for file in sorted(directory.glob("*.safetensors")):
        _rename_tensors(file)
    index = directory / INDEX_NAME
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {vllm_name(name): shard for name, shard in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def vllm_name(name: str) -> str:
    """The name under which vLLM looks for the weight that transformers calls `name`."""
    return FLAT_TOWER.sub("vision_tower.vision_model.", name)


def _rename_tensors(file: Path) -> None:
    """Rewrite the header of a safetensors file: 8 bytes of length, JSON, then the data it points at."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header: dict[str, Any] = json.loads(source.read(length))
        renamed = {vllm_name(name): entry for name, entry in header.items()}
        if renamed == header:
            return
        text = json.dumps(renamed, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the data
        partial = file.with_suffix(".partial")
        with partial.open("wb") as target:
            target.write(struct.pack("<Q", len(text)))
            target.write(text)
            shutil.copyfileobj(source, target, 1 << 22)
    partial.replace(file)
