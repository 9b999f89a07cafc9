"""LoRA adapters, as peft saves them, merged into the model that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from feedback_workloads.contract import BadInput
from feedback_workloads.models.families import family_of
from feedback_workloads.models.saving import save_full

ADAPTER_CONFIG: Final = "adapter_config.json"


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

    It has the base's precision, and all else as the base has it. Raises BadInput where the two do not belong together.
    """
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, GenerationConfig

    family = family_of(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    # What was set for generation may not be valid as saved defaults; the base's file is copied as it is.
    model.generation_config = GenerationConfig()
    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        line = " ".join(str(error).split())
        raise BadInput(
            f"the adapter in {adapter} does not fit its base in {base} ({line}); name its own base"
        ) from error
    save_full(merged, merged.state_dict(), family, target)
