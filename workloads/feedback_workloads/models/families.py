"""Which family a model is of, and whether it can do what it is wanted for: asked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from feedback_workloads.contract import BadInput, Model
from feedback_workloads.models.checkpoint import rename_weights
from feedback_workloads.models.family import Capability, Config, Family
from feedback_workloads.models.internvl import InternVL
from feedback_workloads.models.llava import Llava
from feedback_workloads.models.llava_next import LlavaNext
from feedback_workloads.models.llava_onevision import LlavaOnevision
from feedback_workloads.models.omnilmm.family import OmniLMM
from feedback_workloads.models.overrides import check_code, check_overrides, quantized
from feedback_workloads.models.qwen_vl import Qwen3VL, Qwen25VL
from feedback_workloads.models.smolvlm import SmolVLM
from feedback_workloads.models.standard import Standard, Text

FAMILIES: Final[tuple[type[Standard], ...]] = (
    Llava,
    LlavaNext,
    LlavaOnevision,
    Qwen25VL,
    Qwen3VL,
    InternVL,
    SmolVLM,
    OmniLMM,
)
"""Those that can be trained."""

UNTRAINED: Final[Mapping[str, str]] = {
    "gemma3": "lets the tokens of a picture see each other both ways: no trainer and vLLM were seen to agree on it",
}
"""Why models of a `model_type` that one might look for among `FAMILIES` are not there."""

SEEING: Final = ("vision_config", "vq_config")
"""What config.json has of a model that sees."""


def family_of(folder: Path, model: Model | None = None) -> Family:
    """The model in `folder`, which is what was named as `model`.

    Raises BadInput where the folder holds no whole model, or the model would run code that nothing pins.
    """
    named = model or Model(uri=str(folder))
    if not (folder / "config.json").exists():
        raise BadInput(f"{named.uri} has no config.json; give a whole model")
    if named.trust_remote_code:
        check_code(folder, named.uri)
    config: Config = json.loads((folder / "config.json").read_text())
    return kind_of(config)(folder, config, named)


def kind_of(config: Config) -> type[Standard]:
    """The family of a model of this config.json."""
    otherwise = Standard if any(config.get(name) for name in SEEING) else Text
    return next((family for family in FAMILIES if family.recognises(config)), otherwise)


def check(family: Family, capability: Capability, uri: str) -> None:
    """Raise BadInput unless the model has the capability, and is as what is said of it needs it to be.

    `uri` is its name for people.
    """
    if capability == "train" and (method := quantized(family.config)):
        raise BadInput(
            f"the policy {uri} is quantized ({method}), and rounded weights cannot be trained; name the model that it "
            "was made of (a labeler may be quantized)"
        )
    if capability in family.capabilities:
        check_overrides(family)
        return
    parts = (_type(family.config, part) for part in ("vision_config", "text_config"))
    kind = " with ".join((str(family.config.get("model_type")), *filter(None, parts)))
    what = f"{uri} is of type {kind} ({', '.join(family.config.get('architectures') or ('without an architecture',))})"
    match capability:
        case "train":
            why = UNTRAINED.get(str(family.config.get("model_type")), "cannot be trained here")
            trained = "; ".join(family.described() for family in FAMILIES)
            raise BadInput(f"the policy {what}, which {why}; give one of type {trained} (a labeler may be of any type)")
        case "lora":
            raise BadInput(
                f"the policy {what}, and no adapter of it was seen to work in vLLM; leave spec.training.lora out"
            )
        case _:
            raise BadInput(
                f"the model {what}, which sees no pictures; name a multimodal model in Hugging Face's layout"
            )


def check_trainable(family: Family, uri: str, *, lora: bool) -> None:
    """Raise BadInput unless the model can be trained, and with `lora` as an adapter."""
    check(family, "train", uri)
    if lora:
        check(family, "lora", uri)


def check_pictures(family: Family, most: int, field: str) -> None:
    """Raise BadInput where rows have up to `most` pictures and the model of `field` takes fewer."""
    if most <= family.most_pictures:
        return
    named = f"{field} {family.model.uri}"
    if family.most_pictures > 1:
        raise BadInput(f"a row of the data has {most} pictures, and {named} takes {family.most_pictures}")
    types = " or ".join(other.described() for other in FAMILIES if other.SEVERAL_PICTURES)
    raise BadInput(
        f"a row of the data has {most} pictures, and {named} is of type {family.config.get('model_type')}, "
        f"which takes one alone; give rows of one picture, or a model of type {types}"
    )


def _type(config: Config, part: str) -> str | None:
    return (config.get(part) or {}).get("model_type")


def name_weights(folder: Path) -> None:
    """Rename the weights that transformers saved in `folder`, in place, so that vLLM finds them, too."""
    rename_weights(folder, family_of(folder).saved_name)
