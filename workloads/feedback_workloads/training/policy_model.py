"""The policy in memory: loading, what of it is trained, and saving it for transformers and vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from feedback_workloads.contract import MANIFEST_NAME, BadInput, LoRA
from feedback_workloads.models.checkpoint import rename_weights
from feedback_workloads.models.family import Family

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf"})
NOT_COPIED = frozenset({"config.json", MANIFEST_NAME, "README.md"})
SHARD_SIZE = "5GB"


def load(family: Family, dtype: torch.dtype) -> PreTrainedModel:
    """Load the family's model with all frozen that is not trained.

    Its attention is torch's, which takes the masks of `shared_prompt`.
    """
    try:
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            family.folder, dtype=dtype, attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())
        raise BadInput(f"the model in {family.folder} cannot be loaded ({line}); give a multimodal model") from error
    # What was set for generation may not be valid as saved defaults, and plays no part here; see `save_full`.
    model.generation_config = GenerationConfig()
    family.freeze(model)
    return model


def lora_config(family: Family, model: PreTrainedModel, lora: LoRA) -> LoraConfig:
    """Adapters on every linear layer of the language model, and on nothing else.

    The projector stays as it is: vLLM switches adapters of the language model per request, and so serves the policy
    and its reference from one engine, but it cannot switch a projector that was trained in full.
    """
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=family.lora_targets(model),
        bias="none",
        task_type="CAUSAL_LM",
    )


def save_full(model: PreTrainedModel, weights: dict[str, torch.Tensor], family: Family, folder: Path) -> None:
    """Write a complete model folder: the weights, and all else as it is in the family's folder."""
    # DeepSpeed's are copies, by which transformers cannot tell that lm_head is the embedding once more.
    once = {name: value for name, value in weights.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(folder, state_dict=once, max_shard_size=SHARD_SIZE)
    rename_weights(folder, family.saved_name)
    _set_dtype(folder / "config.json", next(iter(weights.values())).dtype)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in family.folder.iterdir():
        name = file.name
        if file.is_file() and file.suffix not in WEIGHT_SUFFIXES and name not in NOT_COPIED and ".index." not in name:
            shutil.copyfile(file, folder / name)


def save_adapter(model: PeftModel, weights: dict[str, torch.Tensor] | None, base_uri: str, folder: Path) -> None:
    """Write the adapter alone, with `base_uri` as the name of the model that it belongs to."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_uri
    model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    # peft keeps the names of the modules as a set, which no two processes write in one order.
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text())
    _write_json(file, {**content, "target_modules": sorted(content["target_modules"])})


def _set_dtype(file: Path, dtype: torch.dtype) -> None:
    """Say in config.json in which precision the weights were saved; the model in memory may have another."""
    name = str(dtype).removeprefix("torch.")

    def changed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: name if key == "dtype" and item is not None else changed(item) for key, item in value.items()}

    _write_json(file, changed(json.loads(file.read_text())))


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
