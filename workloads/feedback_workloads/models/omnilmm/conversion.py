"""OmniLMM-12B as it was first published, and RLAIF-V-12B after it (`omnilmm`), in the layout of `network`.

There, config.json is Mistral's with a few settings more: the tower, whose code gives it one size, and the resampler lie
among the weights. Pictures and chats have no settings in its files either, but in the code that samples and trains
(https://github.com/RLHF-V/RLAIF-V: `chat.py`, `omnilmm/model/`, `omnilmm/train/train_utils.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.models import layouts
from feedback_workloads.models.family import Config
from feedback_workloads.models.omnilmm.family import ARCHITECTURE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from feedback_workloads.models.omnilmm.network import Eva02Config, OmniLMMConfig

TYPE: Final = "omnilmm"
"""`model_type` in its config.json."""

SIZES: Final = ("hidden_size", "image_size", "num_query", "vocab_size")
"""What config.json must say as a number; what else it may leave out is as in Mistral-7B, which transformers knows."""

TEXT: Final = (
    "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
    "rope_theta", "vocab_size",
)  # fmt: skip
"""Settings of Mistral that are taken as they are."""

TOWER_HEAD: Final = 112
"""Numbers of each of the tower's attention heads, of which timm's has 16 for 1,792 numbers."""
PROJECTOR_HEAD: Final = 128
"""Those of the resampler's."""

RENAMED: Final = (
    (re.compile(r"^model\.vision_tower\."), "model.vision_tower."),
    (re.compile(r"^model\.resampler\."), "model.multi_modal_projector."),
    (re.compile(r"^model\."), "model.language_model."),
    (re.compile(r"^lm_head\."), "lm_head."),
)
"""Beginnings of names; the first that fits."""

PATCH: Final = "<im_patch>"
START: Final = "<im_start>"
END: Final = "<im_end>"
"""Tokens of a picture: as many of the first as it has features, between the other two."""

SYSTEM: Final = (
    "You are an artificial intelligence assistant, which gives helpful, detailed, and polite answers to the human's "
    "questions."
)
CHAT_TEMPLATE: Final = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content if part['type'] == 'image' %}{{ '" + START + PATCH + END + "\\n' }}{% endfor %}"
    "{% for part in content if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}{% endmacro %}"
    "{% macro turn(role, text) %}{{ '<|' + role + '|>\\n' + text + eos_token + '\\n' }}{% endmacro %}"
    "{% if messages[0]['role'] != 'system' %}{{ turn('system', \"" + SYSTEM + '") }}{% endif %}'
    "{% for message in messages %}{{ turn(message['role'], said(message['content'])) }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""Zephyr's, which OmniLMM is trained and sampled with. Pictures come first."""


def recognises(folder: Path) -> bool:
    """Whether the model in `folder` is of this layout."""
    file = folder / "config.json"
    return file.exists() and json.loads(file.read_text()).get("model_type") == TYPE


def check_kind(config: Config, uri: str) -> None:
    """Raise BadInput where a model of this config.json is none that OmniLMM's code loads; `uri` is its name."""
    if config.get("mm_use_im_start_end") is not True:
        raise BadInput(
            f"config.json of {uri} has mm_use_im_start_end {config.get('mm_use_im_start_end')!r}, and OmniLMM's own "
            f"code takes true alone, a picture between {START} and {END}; set it, if the model was trained so"
        )
    for name in SIZES:
        number = config.get(name)
        if not isinstance(number, int) or number < 1:
            raise BadInput(f"config.json of {uri} has {name} {number!r}, and not a number above 0; download it whole")
    queries, side, hidden = config["num_query"], config["image_size"], config["hidden_size"]
    grid = math.isqrt(queries)
    if grid * grid != queries or side % grid:
        raise BadInput(
            f"config.json of {uri} has num_query {queries} and image_size {side}; the queries of a resampler are a "
            "square grid that divides the picture, as 64 do one of 448 pixels"
        )
    if hidden % PROJECTOR_HEAD:
        raise BadInput(
            f"config.json of {uri} has hidden_size {hidden}, and the resampler has heads of {PROJECTOR_HEAD}; give a "
            "multiple of it"
        )


def converter(folder: Path, download: Callable[[str], Path], uri: str) -> Callable[[Path], None]:
    """What writes the model in `folder` to another as `convert` does; all of it lies there."""
    return partial(convert, folder, uri=uri)


def convert(folder: Path, target: Path, uri: str) -> None:
    """Write the model in `folder` to the folder `target` as `network` and vLLM load it.

    It computes what it computed: weights keep their values and their types, and are mapped and written one by one. A
    sliding window becomes the longest sequence, within which it hides nothing. `uri` is the model's name for people.
    Raises BadInput where it is of another kind, or not whole, before anything is written.
    """
    from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor

    original = json.loads((folder / "config.json").read_text())
    check_kind(original, uri)
    tokenizer = _tokenizer(folder, original["vocab_size"], uri)
    shards = layouts.renamed_files(layouts.mapped_files(folder, uri), renamed)
    found = layouts.shapes_of(shards)
    config = _config(original, _tower(found, original["image_size"], uri), tokenizer)
    layouts.check_whole(found, shapes(config), uri)
    config.dtype = layouts.type_of(shards)
    config.save_pretrained(target)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(target)
    side = {"height": original["image_size"], "width": original["image_size"]}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=side, do_center_crop=False, crop_size=side),
        tokenizer=tokenizer,
        patch_size=original["image_size"] // math.isqrt(original["num_query"]),  # a token stands for so many pixels
        vision_feature_select_strategy="full",
        image_token=PATCH,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(target)
    layouts.write_shards(shards, target)


def renamed(name: str) -> str | None:
    """The name of a weight in the layout of `network`, None where it has none there."""
    if name.endswith(layouts.COMPUTED):
        return None
    return next((old.sub(new, name) for old, new in RENAMED if old.match(name)), name)


def shapes(config: OmniLMMConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a model of this configuration. Needs no memory."""
    import torch

    from feedback_workloads.models.omnilmm.network import OmniLMMForConditionalGeneration

    with torch.device("meta"):
        model = OmniLMMForConditionalGeneration(config)
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def _tokenizer(folder: Path, rows: int, uri: str) -> PreTrainedTokenizerFast:
    """Its tokenizer with the tokens of a picture, which its code adds in this order where they are not there.

    It is one that is read as it was written: as Llama's, transformers would make it anew from the vocabulary, and put
    no space behind special tokens.
    """
    from transformers import AddedToken, PreTrainedTokenizerFast

    llamas = layouts.llama_tokenizer(folder, uri)
    llamas.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (PATCH, START, END)], special_tokens=True
    )
    last = max(llamas.convert_tokens_to_ids([PATCH, START, END]))
    if last >= rows:
        raise BadInput(
            f"the tokenizer of {uri} has {PATCH}, {START} or {END} as token {last}, and the model has {rows} of them; "
            "give the tokenizer that was saved with it"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=llamas.backend_tokenizer,
        bos_token=llamas.bos_token,
        eos_token=llamas.eos_token,
        unk_token=llamas.unk_token,
        pad_token=llamas.pad_token or llamas.eos_token,
        model_max_length=llamas.model_max_length,
    )


def _tower(found: layouts.Shapes, side: int, uri: str) -> Eva02Config:
    """The sizes of the tower, which config.json does not tell: those of its weights."""
    from feedback_workloads.models.omnilmm.network import Eva02Config

    begin = "model.vision_tower."
    try:
        hidden, _, patch, _ = found[f"{begin}patch_embed.proj.weight"]
        inner, _ = found[f"{begin}blocks.0.mlp.fc1.weight"]
        _, places, _ = found[f"{begin}pos_embed"]
    except KeyError as error:
        raise BadInput(
            f"{uri} has no weight {error}, so its tower was kept elsewhere; have it saved with the rest, as "
            "openbmb/OmniLMM-12B has"
        ) from error
    if side % patch or hidden % TOWER_HEAD:
        raise BadInput(
            f"config.json of {uri} has image_size {side}, and its tower patches of {patch} pixels and {hidden} "
            f"numbers; the first is to be divisible by the second, the third by {TOWER_HEAD}"
        )
    block = re.compile(re.escape(begin) + r"blocks\.(\d+)\.")
    return Eva02Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=1 + max(int(match[1]) for name in found if (match := block.match(name))),
        num_attention_heads=hidden // TOWER_HEAD,
        image_size=side,
        patch_size=patch,
        position_grid=math.isqrt(places - 1),
    )


def _config(original: Config, tower: Eva02Config, tokenizer: PreTrainedTokenizerFast) -> OmniLMMConfig:
    from feedback_workloads.models.omnilmm.network import OmniLMMConfig

    text: Mapping[str, Any] = {name: original[name] for name in TEXT if name in original}
    longest = original.get("max_position_embeddings", 32768)
    return OmniLMMConfig(
        vision_config=tower,
        text_config={
            "model_type": "mistral",
            **text,
            "max_position_embeddings": min(longest, original.get("sliding_window") or longest),
            "sliding_window": None,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(PATCH),
        image_seq_length=original["num_query"],
        projector_heads=original["hidden_size"] // PROJECTOR_HEAD,
        architectures=[ARCHITECTURE],
    )
