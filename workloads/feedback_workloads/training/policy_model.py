"""The policy in memory: loading, what of it is trained, and saving its adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)

from feedback_workloads.contract import BadInput, LoRA
from feedback_workloads.models.adapters import ADAPTER_CONFIG
from feedback_workloads.models.family import Family
from feedback_workloads.models.saving import write_json


def load(family: Family, dtype: torch.dtype, nf4_on: torch.device | None = None) -> PreTrainedModel:
    """Load the family's model with all frozen that is not trained.

    Its attention is torch's, which takes the masks of `shared_prompt`. With `nf4_on`, it is loaded onto that device,
    and what adapters are put on is rounded to 4 bits.
    """
    rounded = {} if nf4_on is None else {"quantization_config": nf4(family, dtype), "device_map": {"": nf4_on}}
    try:
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            family.folder, dtype=dtype, attn_implementation="sdpa", **rounded
        )
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())
        raise BadInput(f"the model in {family.folder} cannot be loaded ({line}); give a multimodal model") from error
    if rounded:
        _keep_gradients(model)
    # What was set for generation may not be valid as saved defaults, and plays no part here; see `saving.save_full`.
    model.generation_config = GenerationConfig()
    family.freeze(model)
    return model


def nf4(family: Family, dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's 4 bits (https://arxiv.org/abs/2305.14314), with scales that are rounded as well, for the linear layers
    that adapters are put on and for no others. Products are computed in `dtype`.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(family.folder))
    rounded = frozenset(family.lora_targets(model))
    linears = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[f"{re.escape(name)}$" for name in linears if name not in rounded],
    )


def _keep_gradients(model: PreTrainedModel) -> None:
    """Have rounded layers lie on a processor as they do elsewhere.

    On one that multiplies in bfloat16, bitsandbytes would repack them at the first pass without gradients, such as that
    of the references, into a layout that no gradients get through, silently.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def keep_whole(model: torch.nn.Module) -> None:
    """Make what is trained float32 again, which TRL casts to bfloat16 where the model below is rounded.

    Its eight bits would lose steps as small as those of DPO. DeepSpeed casts as well, but keeps float32 weights itself.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


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
