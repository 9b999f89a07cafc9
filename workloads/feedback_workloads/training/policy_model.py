"""The policy in memory: loading, what of it is trained, and saving its adapter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from feedback_workloads.contract import BadInput, LoRA
from feedback_workloads.models.adapters import ADAPTER_CONFIG
from feedback_workloads.models.family import Family
from feedback_workloads.models.saving import write_json


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
    # What was set for generation may not be valid as saved defaults, and plays no part here; see `saving.save_full`.
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


def save_adapter(model: PeftModel, weights: dict[str, torch.Tensor] | None, base_uri: str, folder: Path) -> None:
    """Write the adapter alone, with `base_uri` as the name of the model that it belongs to."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_uri
    model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    # peft keeps the names of the modules as a set, which no two processes write in one order.
    file = folder / ADAPTER_CONFIG
    content = json.loads(file.read_text())
    write_json(file, {**content, "target_modules": sorted(content["target_modules"])})
