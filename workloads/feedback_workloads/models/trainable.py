"""Which policies can be trained: asked by the first stage, too, before anything is sampled and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from feedback_workloads.contract import BadInput

MODEL_TYPE: Final = "llava"
VISION_TYPES: Final = ("clip_vision_model", "siglip_vision_model")
"""As config.json names them. It is LLaVA-1.5's layout: a picture is one grid of patches, `pixel_values` is all that the
model needs of it, and each patch is one token at a position of its own."""


def check_trainable(model: Path, uri: str) -> None:
    """Raise BadInput unless the policy in the folder `model` can be trained; `uri` is its name for people."""
    if not (model / "config.json").exists():
        found = "is a LoRA adapter" if (model / "adapter_config.json").exists() else "has no config.json"
        raise BadInput(f"the policy {uri} {found}; give a whole model, an adapter merged into its base")
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    kind = config.get("model_type")
    vision = (config.get("vision_config") or {}).get("model_type", VISION_TYPES[0])
    if kind == MODEL_TYPE and vision in VISION_TYPES:
        return
    tower = f" with {vision}" if kind == MODEL_TYPE else ""
    names = ", ".join(config.get("architectures") or ("without an architecture",))
    raise BadInput(
        f"the policy {uri} is of type {kind}{tower} ({names}), which cannot be trained here; give one of "
        f"LLaVA-1.5's layout, type {MODEL_TYPE} with {' or '.join(VISION_TYPES)} (a labeler may be of any type)"
    )
