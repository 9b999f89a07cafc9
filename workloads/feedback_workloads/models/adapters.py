"""LoRA adapters, as peft saves them, merged into the model that they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.models.families import family_of
from feedback_workloads.models.saving import save_full

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."
A: Final = ".lora_A.weight"
B: Final = ".lora_B.weight"
MORE: Final = (
    "alpha_pattern", "fan_in_fan_out", "layer_replication", "lora_bias", "modules_to_save", "rank_pattern",
    "trainable_token_indices", "use_dora", "use_rslora",
)  # fmt: skip
"""Settings of peft by which an adapter is more than a product of two matrices for each layer."""


def recognises(folder: Path) -> bool:
    """Whether `folder` holds an adapter and not a whole model."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def base_uri(folder: Path) -> str:
    """Where the adapter's base is, by its own word: a URI or an absolute path as it is, a name on the hub.

    Raises BadInput where it does not say.
    """
    name = json.loads((folder / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    if not name:
        raise BadInput(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path; name the base there")
    return name if "://" in name or name.startswith("/") else f"hf://{name}"


def merge(base: Path, adapter: Path, target: Path) -> None:
    """Write the model in `base`, with the adapter in `adapter` merged into it, to the folder `target`.

    It has the base's precision, and all else as the base has it. Images that sample have no peft, so this is the one
    sum that merging is. Raises BadInput for an adapter that is more than that, or of another base.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, GenerationConfig

    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    _check_plain(config, adapter)
    family = family_of(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    # What was set for generation may not be valid as saved defaults; the base's file is copied as it is.
    model.generation_config = GenerationConfig()
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    scale = config["lora_alpha"] / config["r"]
    for name in sorted(key.removesuffix(A) for key in weights if key.endswith(A)):
        change = scale * (weights[name + B].float() @ weights[name + A].float())
        try:
            weight = model.get_submodule(name.removeprefix(PREFIX)).weight
            with torch.no_grad():
                weight.copy_(weight.float() + change)
        except (AttributeError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise BadInput(f"the adapter in {adapter} does not fit its base {base} ({line}); name its own") from error
    save_full(model, model.state_dict(), family, target)


def _check_plain(config: Mapping[str, Any], adapter: Path) -> None:
    given = [name for name in MORE if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or given:
        what = ", ".join(given) or f"peft_type {config.get('peft_type')} with bias {config.get('bias')}"
        raise BadInput(f"the adapter in {adapter} has {what}; merge it with peft, and name the whole model instead")
