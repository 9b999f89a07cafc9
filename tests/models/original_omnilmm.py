"""OmniLMM-12B in the layout in which it was first published: tiny checkpoints in it, and what they compute.

Nothing here is by transformers or by our own network: shapes are a rule, and the forward pass is written out anew from
the published code. Where facts were looked up, in https://github.com/RLHF-V/RLAIF-V at 83d917b (which samples, labels
and asks with OmniLMM-12B and RLAIF-V-12B; https://github.com/OpenBMB/MiniCPM-V has the same files):

- names of weights, and that the tower is one of timm whose last block is left out: `create_vision_module`,
  `OmniLMMModel` in `omnilmm/model/omnilmm.py`; the tower's: `eva02_enormous_patch14_clip_224`, `Eva`,
  `EvaBlockPostNorm`, `EvaAttention` in timm 0.9.10 (`timm/models/eva.py`), the version that `pyproject.toml` there asks
  for; positions of another size: `resample_abs_pos_embed` (`timm/layers/pos_embed.py`);
- features: `get_vision_embedding` in `omnilmm.py`; the resampler: `omnilmm/model/resampler.py`;
- settings in config.json: what that code reads of it, and `initialize_vision_modules`;
- tokens of a picture, and that the code adds them: `init_omni_lmm`, `wrap_question_for_omni_lmm` in `chat.py`; further
  ones: `initialize_vision_tokenizer` in `omnilmm.py`;
- the conversation: `omni_preprocess` in `omnilmm/train/train_utils.py`, with the template of
  https://huggingface.co/HuggingFaceH4/zephyr-7b-beta, whose tokenizer is Llama's with a space before every part;
- pictures: `build_transform(is_train=False, std_mode='OPENAI_CLIP')` in `omnilmm/model/utils.py`;
- Mistral: https://arxiv.org/abs/2310.06825.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from tests.models import original_llava
from tests.models.original_llava import Llama, Shapes, Weights, attention, heads, normed

PATCH, START, END = "<im_patch>", "<im_start>", "<im_end>"
ADDED: Final = (PATCH, START, END, "<box>", "</box>", "<ref>", "</ref>", "<quad>", "</quad>")
"""Tokens that its training adds to Zephyr's, in this order."""
SYSTEM: Final = (
    "You are an artificial intelligence assistant, which gives helpful, detailed, and polite answers to the human's "
    "questions."
)


@dataclass(frozen=True)
class Eva:
    """Sizes of the tower; `blocks` are those that are left."""

    width: int
    inner: int
    blocks: int
    heads: int
    grid: int
    patch: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of a whole model; `side` is that of a picture."""

    language: Llama
    tower: Eva
    side: int
    queries: int


PUBLISHED_MISTRAL: Final = Llama(32000 + len(ADDED), 4096, 14336, 32, 32, 8, max_position_embeddings=32768)
PUBLISHED: Final = Sizes(PUBLISHED_MISTRAL, Eva(1792, 15360, 63, 16, 16, 14), 448, 64)


def shapes(sizes: Sizes) -> Shapes:
    """Names and shapes of what a checkpoint holds."""
    llava = original_llava.language_shapes(sizes.language, 1)
    language = {name: shape for name, shape in llava.items() if not name.endswith("inv_freq") and "mm_" not in name}
    tower = {f"model.vision_tower.{name}": shape for name, shape in tower_shapes(sizes.tower).items()}
    hidden = sizes.language.hidden_size
    resampler: Shapes = {
        "pos_embed": (sizes.queries, hidden),
        "query": (sizes.queries, hidden),
        "kv_proj.weight": (hidden, sizes.tower.width),
        "attn.in_proj_weight": (3 * hidden, hidden),
        "attn.in_proj_bias": (3 * hidden,),
        "attn.out_proj.weight": (hidden, hidden),
        "attn.out_proj.bias": (hidden,),
        "proj": (hidden, hidden),
        **normed("ln_q", hidden),
        **normed("ln_kv", hidden),
        **normed("ln_post", hidden),
    }
    return {**language, **tower, **{f"model.resampler.{name}": shape for name, shape in resampler.items()}}


def tower_shapes(sizes: Eva) -> Shapes:
    """Names and shapes of the tower as timm has them."""
    width, inner = sizes.width, sizes.inner
    found: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + sizes.grid**2, width),
        "patch_embed.proj.weight": (width, 3, sizes.patch, sizes.patch),
        "patch_embed.proj.bias": (width,),
        **normed("norm", width),
    }
    for number in range(sizes.blocks):
        block = f"blocks.{number}"
        found |= {
            f"{block}.attn.qkv.weight": (3 * width, width),
            f"{block}.attn.q_bias": (width,),
            f"{block}.attn.v_bias": (width,),
            f"{block}.attn.proj.weight": (width, width),
            f"{block}.attn.proj.bias": (width,),
            f"{block}.mlp.fc1.weight": (inner, width),
            f"{block}.mlp.fc1.bias": (inner,),
            f"{block}.mlp.fc2.weight": (width, inner),
            f"{block}.mlp.fc2.bias": (width,),
            **normed(f"{block}.norm1", width),
            **normed(f"{block}.norm2", width),
        }
    return found


def settings(sizes: Sizes, dtype: str = "bfloat16") -> dict[str, Any]:
    """The content of config.json: Mistral's, and what the code for pictures reads and writes."""
    return {
        "architectures": ["OmniLMMForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        **asdict(sizes.language),
        "image_size": sizes.side,
        "initializer_range": 0.02,
        "mm_use_im_start_end": True,
        "mm_vision_tower": "eva02_enormous_patch14_clip_224.laion2b_plus",
        "model_type": "omnilmm",
        "num_query": sizes.queries,
        "pad_token_id": 2,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": False,
        "use_mm_proj": True,
    }


# ── tiny checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

TINY_EVA: Final = Eva(224, 160, 2, 2, 2, 14)
SIDE: Final = 56
QUERIES: Final = 4


@dataclass(frozen=True)
class Original:
    """A checkpoint, and the weights by which it computes."""

    folder: Path
    sizes: Sizes
    weights: Weights


def write(folder: Path, dtype: torch.dtype = torch.float32, *, files: int = 2, saved_tokens: bool = True) -> Original:
    """Write a tiny checkpoint to `folder`. Its tokenizer has the tokens of a picture only where they were saved."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tokens = original_llava.write_tokenizer(folder)
    if saved_tokens:
        (folder / "added_tokens.json").write_text(json.dumps({token: tokens + i for i, token in enumerate(ADDED)}))
    language = Llama(tokens + len(ADDED), 256, 128, 2, 2, 1, max_position_embeddings=32768)
    sizes = Sizes(language, TINY_EVA, SIDE, QUERIES)
    weights = drawn(sizes)
    saved, names = {name: weight.to(dtype) for name, weight in weights.items()}, sorted(weights)
    places: dict[str, str] = {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors" if files > 1 else "model.safetensors"
        share = {name: saved[name].contiguous() for name in names[number::files]}
        save_file(share, folder / file)
        places |= dict.fromkeys(share, file)
    if files > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    kind = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(settings(sizes, kind)))
    return Original(folder, sizes, {name: weight.float() for name, weight in saved.items()})


def drawn(sizes: Sizes) -> Weights:
    """Random weights; vectors that scale are near 1, and places on a picture are what they are."""
    weights = original_llava.drawn(shapes(sizes), 0, 0.1)
    for name in weights:
        if re.search(r"\.ln_\w+\.weight$", name):
            weights[name] += 1
    return {**weights, "model.resampler.pos_embed": places(sizes.queries, sizes.language.hidden_size)}


def places(number: int, hidden: int) -> torch.Tensor:
    """Sines, then cosines, of a place's column, then of its row, at falling frequencies."""
    side, quarter = math.isqrt(number), hidden // 4
    frequencies = 1 / 10000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [torch.outer(of.flatten().float(), frequencies) for of in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)


# ── what it computes ─────────────────────────────────────────────────────────────────────────────────────────────────


def chat(question: str) -> str:
    """The text of a question about a picture, with one token of it."""
    return f"<|system|>\n{SYSTEM}</s>\n<|user|>\n{START}{PATCH}{END}\n{question}</s>\n<|assistant|>\n"


def prompt_ids(original: Original, text: str) -> list[int]:
    """A text's ids: special tokens by themselves, and what lies between them with a space before it."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(original.folder / "tokenizer.model"))
    special = {"</s>": 2, **{token: model.get_piece_size() + i for i, token in enumerate(ADDED)}}
    ids = [model.bos_id()]
    for part in re.split("(" + "|".join(map(re.escape, special)) + ")", text):
        ids += [special[part]] if part in special else model.encode(part)
    return ids


def pixels(picture: Image.Image, side: int) -> torch.Tensor:
    """A picture as the network has it, (3, side, side): squeezed into the square, in numbers of CLIP's range."""
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    shades = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return (shades - mean[:, None, None]) / deviation[:, None, None]


def logits(original: Original, ids: list[int], seen: torch.Tensor) -> torch.Tensor:
    """Of the next token after each of `ids`, shape (tokens, vocabulary), a picture's features in place of its token."""
    weights, sizes = original.weights, original.sizes
    features = resampled(weights, sizes, patches(weights, sizes, seen))
    place = ids.index(original.sizes.language.vocab_size - len(ADDED))
    embedding = weights["model.embed_tokens.weight"]
    states = torch.cat([embedding[ids[:place]], features, embedding[ids[place + 1 :]]])
    return original_llava.llama(weights, sizes.language, states)


def norm(weights: Weights, name: str, of: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(of, of.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)


def linear(weights: Mapping[str, torch.Tensor], name: str, of: torch.Tensor) -> torch.Tensor:
    return functional.linear(of, weights[f"{name}.weight"], weights[f"{name}.bias"])


def patches(weights: Weights, sizes: Sizes, seen: torch.Tensor) -> torch.Tensor:
    """The tower's states of the patches of a picture (3, side, side), after the last block that is left, and a norm."""
    tower, begin = sizes.tower, "model.vision_tower"
    side = sizes.side // tower.patch
    learned = weights[f"{begin}.pos_embed"][0]
    grid = learned[1:].view(1, tower.grid, tower.grid, -1).permute(0, 3, 1, 2)
    wide = functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    kernel, bias = weights[f"{begin}.patch_embed.proj.weight"], weights[f"{begin}.patch_embed.proj.bias"]
    states = functional.conv2d(seen.unsqueeze(0), kernel, bias, stride=tower.patch)[0].flatten(1).T
    states = torch.cat([weights[f"{begin}.cls_token"][0], states])
    states = states + torch.cat([learned[:1], wide[0].flatten(1).T])
    for number in range(tower.blocks):
        block = f"{begin}.blocks.{number}"
        queries, keys, values = (states @ weights[f"{block}.attn.qkv.weight"].T).chunk(3, -1)
        queries, values = queries + weights[f"{block}.attn.q_bias"], values + weights[f"{block}.attn.v_bias"]
        split = [heads(one, tower.heads) for one in (queries, keys, values)]
        weighed = attention(*split, torch.zeros(len(states), len(states)))
        states = states + norm(weights, f"{block}.norm1", linear(weights, f"{block}.attn.proj", weighed))
        inner = functional.gelu(linear(weights, f"{block}.mlp.fc1", states))
        states = states + norm(weights, f"{block}.norm2", linear(weights, f"{block}.mlp.fc2", inner))
    return norm(weights, f"{begin}.norm", states)[1:]


def resampled(weights: Weights, sizes: Sizes, states: torch.Tensor) -> torch.Tensor:
    """What the queries make of the patches' states, (queries, hidden)."""
    begin, hidden = "model.resampler", sizes.language.hidden_size
    near = weights[f"{begin}.pos_embed"]
    before, side = math.isqrt(len(near)), math.isqrt(len(states))
    grid = near.view(1, before, before, hidden).permute(0, 3, 1, 2)
    far = functional.interpolate(grid, size=(side, side), mode="bicubic")[0].flatten(1).T
    values = norm(weights, f"{begin}.ln_kv", states @ weights[f"{begin}.kv_proj.weight"].T)
    asked = norm(weights, f"{begin}.ln_q", weights[f"{begin}.query"]) + near
    matrices, biases = weights[f"{begin}.attn.in_proj_weight"].chunk(3), weights[f"{begin}.attn.in_proj_bias"].chunk(3)
    given = zip((asked, values + far, values), matrices, biases, strict=True)
    split = [heads(functional.linear(of, *by), hidden // 128) for of, *by in given]
    found = attention(*split, torch.zeros(len(asked), len(states)))
    found = norm(weights, f"{begin}.ln_post", linear(weights, f"{begin}.attn.out_proj", found))
    return found @ weights[f"{begin}.proj"]
