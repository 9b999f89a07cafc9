"""LLaVA-1.5 as it was first published, and RLAIF-V-7B after it (`llava_llama`), made into Hugging Face's LLaVA.

The layout is Llama's with a projector beside its layers, and the name of a vision tower that lies elsewhere. A picture
has no token there: its features are put in where a prompt names one. Facts are from the code that made and loads these
checkpoints (https://github.com/haotian-liu/LLaVA and its copy in https://github.com/RLHF-V/RLAIF-V: `llava/model/`,
`llava/conversation.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.models import layouts
from feedback_workloads.models.family import Config
from feedback_workloads.models.layouts import Shard

if TYPE_CHECKING:
    import torch
    from transformers import LlamaTokenizer, LlavaConfig

TYPES: Final = ("llava_llama", "llava")
"""`model_type` in its config.json; Hugging Face took the second one for its own layout, which names no `TOWER`."""
TOWER: Final = "mm_vision_tower"

OWN_TOWER: Final = "unfreeze_mm_vision_tower"
"""Whether the tower was trained. Else the one that is named counts, as it does in LLaVA's code, also where one was
saved with the rest, as its trainer does."""

TAKEN: Final[Mapping[str, tuple[Any, ...]]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", "cls_patch", None),
    "mm_use_im_start_end": (False, None),
    "mm_patch_merge_type": ("flat", None),
    "image_aspect_ratio": ("pad", "square", None),
}
"""What config.json may say, None where it may be silent: LLaVA-1.5, and not what came before and after it."""

STRATEGIES: Final = {"patch": "default", "cls_patch": "full"}
"""Names for the tower's features without its class token, and with it."""

TEXT: Final = (
    "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size",
    "initializer_range", "intermediate_size", "max_position_embeddings", "mlp_bias", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_scaling", "rope_theta",
)  # fmt: skip
"""Settings of Llama, which lie between those of LLaVA."""

TOWERS: Final = re.compile(r"^vision_model\.")
"""Weights of the vision model in the folder of a tower, where a text model lies beside it."""
RENAMED: Final = (
    (re.compile(r"^model\.vision_tower\.vision_tower\."), "vision_tower."),
    (re.compile(r"^model\.mm_projector\.0\."), "multi_modal_projector.linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), "multi_modal_projector.linear_2."),
    (re.compile(r"^(model|lm_head)\."), r"language_model.\1."),
    (TOWERS, "vision_tower.vision_model."),
)
"""Beginnings of names; the first that fits."""

VOCABULARY: Final = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
"""What has a row for each token."""
ROWS: Final = 64
"""Their number is a multiple of it, as in the models that llava-hf publishes, which is good for speed on GPUs."""

SYSTEM: Final = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_TEXT_OF: Final = (
    "{% macro text(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}{% endmacro %}"
)
_PICTURES_OF: Final = (
    "{% macro pictures(content) %}{% if content is not string %}"
    "{% for part in content if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}{% endif %}{% endmacro %}"
)
CHAT_TEMPLATE: Final = (
    _TEXT_OF + _PICTURES_OF + "{% if messages[0]['role'] == 'system' %}{{ text(messages[0]['content']) }}"
    "{% else %}" + SYSTEM + "{% endif %}{{ ' ' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + pictures(message['content']) + text(message['content']) + ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + text(message['content']) + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Vicuna's (`vicuna_v1`), which LLaVA-1.5 and RLAIF-V are trained, sampled and evaluated with. Pictures come first."""


def recognises(folder: Path) -> bool:
    """Whether the model in `folder` is of this layout."""
    file = folder / "config.json"
    return file.exists() and is_original(json.loads(file.read_text()))


def is_original(config: Config) -> bool:
    """Whether a model of this config.json is of this layout."""
    return config.get("model_type") in TYPES and bool(config.get(TOWER))


def tower_uri(folder: Path) -> str:
    """Where the tower lies that config.json names: a URI or an absolute path as it is, a name on the hub."""
    name = str(json.loads((folder / "config.json").read_text())[TOWER])
    return name if "://" in name or name.startswith("/") else f"hf://{name}"


def converter(folder: Path, download: Callable[[str], Path], uri: str) -> Callable[[Path], None]:
    """What writes the model in `folder` to another as `convert` does, with its tower downloaded."""
    return partial(convert, folder, download(tower_uri(folder)), uri=uri)


def convert(folder: Path, tower: Path, target: Path, uri: str) -> None:
    """Write the model in `folder`, with the tower in `tower`, to the folder `target` as transformers and vLLM load it.

    It computes what it computed: weights keep their values and the language model's type, to which a tower from
    elsewhere is brought, as LLaVA brings it. New are the tokens `<image>` and `<pad>`, and a row of the vocabulary's
    matrices for each of them and up to a multiple of `ROWS`: the mean of all other rows, about which llava-hf draws
    them. Weights are mapped and written one by one. `uri` is the model's name for people. Raises BadInput where it is
    of another kind than LLaVA-1.5, or not whole, before anything is written.
    """
    from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor

    original = json.loads((folder / "config.json").read_text())
    check_kind(original, uri)
    tokenizer = _tokenizer(folder, uri)
    config = _config(original, _tower_config(tower, uri), tokenizer)
    shards = _renamed(folder, uri, own_tower=bool(original.get(OWN_TOWER)))
    if not original.get(OWN_TOWER):
        shards.append(_tower(tower, uri, layouts.type_of(shards)))
    _check_whole(shards, config, uri)
    try:
        images = CLIPImageProcessor.from_pretrained(tower)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"the vision tower {original[TOWER]} of {uri} has no preprocessor_config.json ({error}); name OpenAI's CLIP"
        ) from error
    config.dtype = layouts.type_of(shards)
    config.save_pretrained(target)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(target)
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(target)
    layouts.write_shards(shards, target, partial(_rowed, rows=config.text_config.vocab_size))


def check_kind(config: Config, uri: str) -> None:
    """Raise BadInput where a model of this config.json is of another kind than LLaVA-1.5; `uri` is its name."""
    for name, values in TAKEN.items():
        if config.get(name) not in values:
            raise BadInput(
                f"config.json of {uri} has {name} {config.get(name)!r}, and of this layout LLaVA-1.5 alone is read, "
                f"with {' or '.join(repr(value) for value in values if value is not None)}; name a model in Hugging "
                "Face's layout instead"
            )


def _tokenizer(folder: Path, uri: str) -> LlamaTokenizer:
    """Its tokenizer with the tokens that Hugging Face's layout wants."""
    from transformers import AddedToken

    tokenizer = layouts.llama_tokenizer(folder, uri)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken("<pad>", special=True, normalized=False)})
    return tokenizer


def _tower_config(tower: Path, uri: str) -> dict[str, Any]:
    file = tower / "config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    if config.get("model_type") == "clip":
        config = config["vision_config"]
    elif config.get("model_type") != "clip_vision_model":
        raise BadInput(
            f"the vision tower of {uri} in {tower} is of type {config.get('model_type')}, not CLIP's; name one of "
            f"OpenAI's as {TOWER} in its config.json"
        )
    return {**config, "model_type": "clip_vision_model"}


def _config(original: Config, vision: Mapping[str, Any], tokenizer: LlamaTokenizer) -> LlavaConfig:
    from transformers import LlavaConfig

    rows = max(original["vocab_size"], len(tokenizer))
    text = {name: original[name] for name in TEXT if name in original}
    config = LlavaConfig(
        vision_config=dict(vision),
        text_config={
            "model_type": "llama",
            **text,
            "vocab_size": rows + -rows % ROWS,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=original.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=STRATEGIES[original.get("mm_vision_select_feature") or "patch"],
        architectures=["LlavaForConditionalGeneration"],
    )
    config.image_seq_length = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + (
        config.vision_feature_select_strategy == "full"
    )
    return config


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def renamed(name: str) -> str | None:
    """The name of a weight in Hugging Face's layout, None where it has none there."""
    if name.endswith(layouts.COMPUTED):
        return None
    return next((old.sub(new, name) for old, new in RENAMED if old.match(name)), None)


def saved_name(parameter: str) -> str:
    """The name in a file of what is called `parameter` in transformers' LlavaForConditionalGeneration."""
    name = parameter.removeprefix("model.")
    for part, saved in (("language_model.", "language_model.model."), ("vision_tower.", "vision_tower.vision_model.")):
        if name.startswith(part):
            return saved + name.removeprefix(part)
    return f"language_model.{name}" if name.startswith("lm_head.") else name


def _renamed(folder: Path, uri: str, *, own_tower: bool) -> list[Shard]:
    """The weights by their new names, file by file. Those of a tower only where it is its own."""

    def wanted(name: str) -> str | None:
        new = renamed(name)
        return new if new and (own_tower or not new.startswith("vision_tower.")) else None

    return layouts.renamed_files(layouts.mapped_files(folder, uri), wanted)


def _tower(folder: Path, uri: str, kind: torch.dtype | None) -> Shard:
    """The weights of a tower that lies in a folder of its own, in the type `kind`."""
    weights = {name: weight for file in layouts.mapped_files(folder, uri) for name, weight in file.items()}
    names = {name: new for name in weights if TOWERS.match(name) and (new := renamed(name))}
    return {new: weights[name].to(kind) for name, new in names.items()}


def _check_whole(shards: Sequence[Shard], config: LlavaConfig, uri: str) -> None:
    """Raise BadInput unless the weights are those of a model of this configuration."""
    found, expect = layouts.shapes_of(shards), shapes(config)
    for name in VOCABULARY:
        if len(found.get(name, ())) == 2 and found[name][0] <= expect[name][0]:
            found[name] = (expect[name][0], found[name][1])  # as it will be
    layouts.check_whole(found, expect, uri)


def shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a model of this configuration, as they lie in files. Needs no memory."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {saved_name(name): tuple(weight.shape) for name, weight in model.state_dict().items()}


def _rowed(shard: Shard, rows: int) -> Shard:
    """The shard, whose matrices with a row for each token get as many as `rows`."""
    return {name: _with_rows(weight, rows) if name in VOCABULARY else weight for name, weight in shard.items()}


def _with_rows(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """The matrix with `rows` rows, those that it lacks being the mean of the others."""
    import torch

    mean = weight.mean(0, keepdim=True, dtype=torch.float32).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])
