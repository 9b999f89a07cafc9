"""Whole models written for transformers and vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.contract import MANIFEST_NAME
from feedback_workloads.models.checkpoint import rename_weights
from feedback_workloads.storage.artifacts import WEIGHT_SUFFIXES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from feedback_workloads.models.family import Family

NOT_COPIED: Final = frozenset({"config.json", MANIFEST_NAME, "README.md"})
SHARD_SIZE: Final = "5GB"


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


def _set_dtype(file: Path, dtype: torch.dtype) -> None:
    """Say in config.json in which precision the weights were saved; the model in memory may have another."""
    name = str(dtype).removeprefix("torch.")

    def changed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: name if key == "dtype" and item is not None else changed(item) for key, item in value.items()}

    write_json(file, changed(json.loads(file.read_text())))


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file as whoever writes the same content does."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
