"""What a manifest says of a model beyond its files, and whether that fits it: asked before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError
from PIL import Image

from feedback_workloads.contract import BadInput
from feedback_workloads.models.family import Config, Family
from feedback_workloads.rows.rejected import BadRow

PROBE: Final = (448, 336)
"""Width and height of the picture on which settings of a processor are tried."""

ABOUT_DATA: Final = frozenset({"data_format", "device", "disable_grouping", "input_data_format", "return_tensors"})
"""What an image processor is told of its input and output, which are ours, and not of the picture."""

CODE_NAMED_IN: Final = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
"""Files in which a model says, as `auto_map`, where code of its own is."""


def check_overrides(family: Family) -> None:
    """Raise BadInput where a template, a system prompt, settings of the processor or a quantization does not fit.

    What nothing is said of is not looked at.
    """
    said = family.model
    if said.chat_template is not None:
        _check_template(family)
    if said.system_prompt is not None:
        _check_system_prompt(family)
    if said.processor_kwargs:
        _check_processor_kwargs(family)
    if said.quantization is not None and (before := quantized(family.config)):
        raise BadInput(
            f"quantization is {said.quantization.upper()}, and {said.uri} is quantized already ({before}); leave it "
            "out, for vLLM reads from config.json what was done"
        )


def quantized(config: Config) -> str | None:
    """The method by which the weights of a model of this config.json were quantized; None where they were not."""
    found = quantization_of(config)
    return str(found.get("quant_method", "of an unnamed method")) if found else None


def quantization_of(config: Config) -> dict[str, Any]:
    """What config.json says of how the weights were quantized; empty where they were not."""
    return config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config") or {}


def _check_template(family: Family) -> None:
    said = f"chatTemplate of {family.model.uri}"
    alone = type(family)(family.folder, family.config, family.model.model_copy(update={"system_prompt": None}))
    try:
        alone.chat_ids([alone.message("?")])
        if "label" in alone.capabilities:
            alone.prompt_ids("?")
    except TemplateError as error:
        raise BadInput(f"{said} cannot be used: {error}; mend it, or leave it out for the model's own") from error
    except BadRow as error:
        raise BadInput(
            f"{said} does not write the model's picture token {family.processor.image_token!r} once for a part of type "
            "image; mend it, or leave it out for the model's own"
        ) from error


def _check_system_prompt(family: Family) -> None:
    """Another system prompt has to make another prompt: else the template leaves it out."""
    said, name = str(family.model.system_prompt), family.model.uri

    def asked(system_prompt: str) -> list[int]:
        return family.chat_ids([family.message(system_prompt, "system"), family.message("?")])

    if set(family.tokenizer(said)["input_ids"]) & set(family.banned_ids):
        raise BadInput(f"the systemPrompt of {name} spells the model's picture token; leave that out of it")
    remedy = "leave it out, or give a chatTemplate that has a place for it"
    try:
        heeded = asked(said) != asked(f"{said} 7")
    except TemplateError as error:
        raise BadInput(f"the chat template of {name} refuses the systemPrompt ({error}); {remedy}") from error
    if not heeded:
        raise BadInput(f"the chat template of {name} leaves out the systemPrompt {said[:80]!r}; {remedy}")


def _check_processor_kwargs(family: Family) -> None:
    said, name = family.model.processor_kwargs, f"processorKwargs of {family.model.uri}"
    images = family.processor.image_processor
    known = picture_settings(images)
    if known and (unknown := sorted(said.keys() - known)):
        raise BadInput(
            f"{name} has {', '.join(unknown)}, which {type(images).__name__} does not know and would ignore; it knows "
            f"{', '.join(sorted(known))}"
        )
    try:
        family.features(Image.new("RGB", PROBE))
    except Exception as error:  # of as many kinds as there are processors
        given, line = json.dumps(said), " ".join(str(error).split())
        raise BadInput(f"{name} is {given}, and {type(images).__name__} refuses it: {line}; mend it") from error


def picture_settings(images: Any) -> frozenset[str]:
    """Names of the settings that an image processor takes with a picture; empty of one that does not tell."""
    valid = getattr(images, "valid_kwargs", None)
    return frozenset(getattr(valid, "__annotations__", {})) - ABOUT_DATA


# ── code that comes with a model ─────────────────────────────────────────────────────────────────────────────────────


def code_of(folder: Path) -> list[str]:
    """Where the classes are that a model brings, as `module.Class`, or `owner/name--module.Class` of another's."""
    found: set[str] = set()
    for name in CODE_NAMED_IN:
        if (folder / name).exists():
            named = json.loads((folder / name).read_text()).get("auto_map") or {}
            entries = named.values() if isinstance(named, dict) else [named]
            found |= {one for entry in entries for one in (entry if isinstance(entry, list) else [entry]) if one}
    return sorted(found)


def check_code(folder: Path, uri: str) -> None:
    """Raise BadInput where a model would run code that does not lie beside it, which nothing pins."""
    if elsewhere := [name for name in code_of(folder) if "--" in name]:
        raise BadInput(
            f"trustRemoteCode of {uri}: its code {elsewhere[0]} lies in another repository, whose revision nothing "
            "pins; copy that code beside the model, and name it without the repository"
        )
