"""LLaVA-1.5 in the layout in which it was first published: tiny checkpoints in it, and what they compute.

Nothing here is by transformers' LLaVA, CLIP or Llama: shapes are a rule, and the forward pass is written out anew from
the published code. Where facts were looked up:

- names of weights, and that the tower lies elsewhere: `pytorch_model.bin.index.json` of liuhaotian/llava-v1.5-7b, whose
  beginning, end and total size (13,518,798,848 bytes) people quote; names below `vision_tower.vision_tower`, as a
  checkpoint has them whose tower was saved with the rest: `LlavaMetaModel`, `CLIPVisionTower` in
  https://github.com/haotian-liu/LLaVA (`llava/model/llava_arch.py`, `multimodal_encoder/clip_encoder.py`), which
  https://github.com/RLHF-V/RLAIF-V has a copy of and trains and loads RLAIF-V-7B with (`builder/llava_builder.py`);
- settings in config.json: `llava/train/train.py`, and `muffin/train/train_llava15.py` of RLAIF-V;
- that a tower that was saved with the rest counts only where it was unfrozen: `delay_load` in `clip_encoder.py`;
- features, projector, splicing: the same, and `multimodal_projector/builder.py` (`mlp2x_gelu`);
- the conversation: `vicuna_v1` in `llava/conversation.py`; its tokens: `tokenizer_image_token` in `llava/mm_utils.py`;
- CLIP: https://arxiv.org/abs/2103.00020; Llama: https://arxiv.org/abs/2302.13971.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch.nn import functional

Weights = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

IMAGE: Final = -200
"""What stands for a picture among the ids of a prompt; no token has it."""
SYSTEM: Final = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Llama:
    """Sizes of the language model, by the names of its config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096

    @property
    def head(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Clip:
    """Sizes of the tower, by the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


PUBLISHED_LLAMA: Final = Llama(32000, 4096, 11008, 32, 32, 32)
PUBLISHED_CLIP: Final = Clip(1024, 4096, 24, 16, 336, 14)
PUBLISHED_BYTES: Final = 13_518_798_848
"""`total_size` in the index of liuhaotian/llava-v1.5-7b."""


def language_shapes(sizes: Llama, tower: int) -> Shapes:
    """Names and shapes of what such a checkpoint holds without its tower, whose features have `tower` numbers."""
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    keys = sizes.num_key_value_heads * sizes.head
    found: Shapes = {
        "model.embed_tokens.weight": (sizes.vocab_size, hidden),
        "model.mm_projector.0.weight": (hidden, tower),
        "model.mm_projector.0.bias": (hidden,),
        "model.mm_projector.2.weight": (hidden, hidden),
        "model.mm_projector.2.bias": (hidden,),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (sizes.vocab_size, hidden),
    }
    for number in range(sizes.num_hidden_layers):
        layer = f"model.layers.{number}"
        found |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.rotary_emb.inv_freq": (sizes.head // 2,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    return found


def tower_shapes(sizes: Clip) -> Shapes:
    """Names and shapes of the vision model in the checkpoint of a CLIP."""
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    found: Shapes = {
        "vision_model.embeddings.class_embedding": (hidden,),
        "vision_model.embeddings.patch_embedding.weight": (hidden, 3, sizes.patch_size, sizes.patch_size),
        "vision_model.embeddings.position_embedding.weight": (sizes.patches + 1, hidden),
        "vision_model.embeddings.position_ids": (1, sizes.patches + 1),
    }
    linear: dict[str, tuple[int, int]] = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (inner, hidden), "mlp.fc2": (hidden, inner)}
    for number in range(sizes.num_hidden_layers):
        layer = f"vision_model.encoder.layers.{number}"
        for name, shape in linear.items():
            found |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        found |= normed(f"{layer}.layer_norm1", hidden) | normed(f"{layer}.layer_norm2", hidden)
    return found | normed("vision_model.pre_layrnorm", hidden) | normed("vision_model.post_layernorm", hidden)


def normed(name: str, hidden: int) -> Shapes:
    return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}


def settings(sizes: Llama, tower: str, dtype: str = "float16") -> dict[str, Any]:
    """The content of config.json."""
    return {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        **asdict(sizes),
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "model_type": "llava_llama",
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "tune_mm_mlp_adapter": False,
        "use_cache": True,
        "use_mm_proj": True,
    }


# ── tiny checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

TINY_CLIP: Final = Clip(64, 128, 3, 2, 56, 14)


@dataclass(frozen=True)
class Original:
    """A checkpoint, and the weights by which it computes: those of its tower by their names there."""

    folder: Path
    sizes: Llama
    language: Weights
    tower: Weights


def write(
    folder: Path,
    kind: Literal["bin", "safetensors"],
    dtype: torch.dtype = torch.float32,
    *,
    files: int = 2,
    unfrozen: bool = False,
) -> Original:
    """Write a tiny checkpoint to `folder`/original, and the tower that it names to `folder`/tower.

    As `bin` it has none of its own, as LLaVA-1.5; as `safetensors` it has another one, saved with the rest, which
    counts only where it was `unfrozen`.
    """
    from safetensors.torch import save_file

    original, tower = folder / "original", folder / "tower"
    original.mkdir(parents=True)
    sizes = Llama(write_tokenizer(original), 64, 128, 2, 2, 1)
    seen = write_tower(tower, TINY_CLIP)
    language = drawn(language_shapes(sizes, TINY_CLIP.hidden_size), 0, 0.15)
    saved = {name: weight if name.endswith("inv_freq") else weight.to(dtype) for name, weight in language.items()}
    if kind == "safetensors":
        other = drawn(tower_shapes(TINY_CLIP), 2, 0.1)
        saved |= {f"model.vision_tower.vision_tower.{name}": weight.to(dtype) for name, weight in other.items()}
        seen = other if unfrozen else seen
    begin, suffix = ("pytorch_model", ".bin") if kind == "bin" else ("model", ".safetensors")
    names = sorted(saved)
    places: dict[str, str] = {}
    for number in range(files):
        file = f"{begin}-{number + 1:05d}-of-{files:05d}{suffix}" if files > 1 else f"{begin}{suffix}"
        share = {name: saved[name] for name in names[number::files]}
        (torch.save if kind == "bin" else save_file)(share, original / file)
        places |= dict.fromkeys(share, file)
    if files > 1:
        (original / f"{begin}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = settings(sizes, str(tower), str(dtype).removeprefix("torch."))
    (original / "config.json").write_text(json.dumps({**config, "unfreeze_mm_vision_tower": unfrozen}))
    return Original(original, sizes, language, seen)


def write_tower(folder: Path, sizes: Clip) -> Weights:
    """A folder like openai/clip-vit-large-patch14-336, text model included; returns the vision model's weights."""
    folder.mkdir()
    weights = drawn(tower_shapes(sizes), 1, 0.1)
    beside = {"logit_scale": torch.tensor(4.6), "text_model.final_layer_norm.weight": torch.ones(8)}
    torch.save({**weights, **beside}, folder / "pytorch_model.bin")
    vision = {**asdict(sizes), "hidden_act": "quick_gelu", "model_type": "clip_vision_model", "projection_dim": 768}
    config = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 768, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": {"hidden_size": 8}}))
    pictures = {
        "crop_size": sizes.image_size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": sizes.image_size,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return weights


def drawn(shapes: Shapes, seed: int, deviation: float) -> Weights:
    """Random weights; vectors that scale are near 1, and what follows from the sizes is what follows."""
    generator = torch.Generator().manual_seed(seed)

    def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("position_ids"):
            return torch.arange(shape[1]).unsqueeze(0)
        if name.endswith("inv_freq"):
            return frequencies(2 * shape[0])
        noise = deviation * torch.randn(shape, generator=generator)
        return 1 + noise if "norm" in name and name.endswith("weight") else noise

    return {name: weight(name, shape) for name, shape in shapes.items()}


MERGED: Final = ("ye", "yes", "no", "Ye", "Yes", "No", "▁yes", "▁no", "▁Yes", "▁No", "is", "▁is", "US", "ER")


def write_tokenizer(folder: Path, tokens: int = 0) -> int:
    """A tokenizer.model of Llama's kind, and its settings; returns its number of tokens, `tokens` if they suffice."""
    from sentencepiece import sentencepiece_model_pb2 as format

    model = format.ModelProto()
    model.trainer_spec.model_type = format.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    kinds = format.ModelProto.SentencePiece

    def add(piece: str, kind: int, score: float = 0.0) -> None:
        model.pieces.add(piece=piece, type=kind, score=score)

    add("<unk>", kinds.UNKNOWN)
    add("<s>", kinds.CONTROL)
    add("</s>", kinds.CONTROL)
    for byte in range(256):
        add(f"<0x{byte:02X}>", kinds.BYTE)
    for number, piece in enumerate((*MERGED, "▁", *string.ascii_letters, *string.digits, *string.punctuation)):
        add(piece, kinds.NORMAL, -float(number))
    for number in range(tokens - len(model.pieces)):
        add(chr(0x4E00 + number), kinds.NORMAL, -1000.0 - number)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {
        **special, "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "legacy": False, "model_max_length": 2048, "padding_side": "right", "tokenizer_class": "LlamaTokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(model.pieces)


# ── what it computes ─────────────────────────────────────────────────────────────────────────────────────────────────


def prompt_ids(folder: Path, text: str) -> list[int]:
    """A prompt's ids: what lies on either side of `<image>` is encoded by itself."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = [model.bos_id()]
    for number, part in enumerate(text.split("<image>")):
        ids += [*([IMAGE] if number else []), *model.encode(part)]
    return ids


def logits(original: Original, ids: list[int], pixels: torch.Tensor) -> torch.Tensor:
    """Of the next token after each of `ids`, shape (tokens, vocabulary), the picture's features in place of `IMAGE`."""
    weights, sizes = original.language, original.sizes
    projected = features(original.tower, TINY_CLIP, pixels)
    for layer in ("0", "2"):
        name = f"model.mm_projector.{layer}"
        projected = functional.linear(projected, weights[f"{name}.weight"], weights[f"{name}.bias"])
        projected = functional.gelu(projected) if layer == "0" else projected
    embedding, place = weights["model.embed_tokens.weight"], ids.index(IMAGE)
    states = torch.cat([embedding[ids[:place]], projected, embedding[ids[place + 1 :]]])
    return llama(weights, sizes, states)


def features(weights: Weights, sizes: Clip, pixels: torch.Tensor) -> torch.Tensor:
    """Of a picture (3, side, side): the states before the last layer, without the class token's, (patches, hidden)."""
    patches = functional.conv2d(
        pixels.unsqueeze(0), weights["vision_model.embeddings.patch_embedding.weight"], stride=sizes.patch_size
    )
    states = torch.cat([weights["vision_model.embeddings.class_embedding"].unsqueeze(0), patches[0].flatten(1).T])
    states = states + weights["vision_model.embeddings.position_embedding.weight"]

    def norm(name: str, of: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(of, of.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    states = norm("vision_model.pre_layrnorm", states)
    for number in range(sizes.num_hidden_layers - 1):
        layer = f"vision_model.encoder.layers.{number}"

        def linear(name: str, of: torch.Tensor, layer: str = layer) -> torch.Tensor:
            return functional.linear(of, weights[f"{layer}.{name}.weight"], weights[f"{layer}.{name}.bias"])

        seen = norm(f"{layer}.layer_norm1", states)
        projected = (linear(f"self_attn.{name}_proj", seen) for name in ("q", "k", "v"))
        queries, keys, values = (heads(one, sizes.num_attention_heads) for one in projected)
        weighed = attention(queries, keys, values, torch.zeros(len(states), len(states)))
        states = states + linear("self_attn.out_proj", weighed)
        inner = linear("mlp.fc1", norm(f"{layer}.layer_norm2", states))
        states = states + linear("mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    return states[1:]


def llama(weights: Mapping[str, torch.Tensor], sizes: Llama, states: torch.Tensor) -> torch.Tensor:
    tokens = len(states)
    angles = torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies(sizes.head))
    cosine, sine = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    later = torch.full((tokens, tokens), float("-inf")).triu(1)

    def norm(name: str, of: torch.Tensor) -> torch.Tensor:
        return weights[f"{name}.weight"] * of * torch.rsqrt(of.pow(2).mean(-1, keepdim=True) + sizes.rms_norm_eps)

    def turned(of: torch.Tensor) -> torch.Tensor:
        first, second = of.chunk(2, -1)
        return of * cosine + torch.cat([-second, first], -1) * sine

    for number in range(sizes.num_hidden_layers):
        layer = f"model.layers.{number}"

        def linear(name: str, of: torch.Tensor, layer: str = layer) -> torch.Tensor:
            return of @ weights[f"{layer}.{name}.weight"].T

        seen = norm(f"{layer}.input_layernorm", states)
        queries = turned(heads(linear("self_attn.q_proj", seen), sizes.num_attention_heads))
        keys = turned(heads(linear("self_attn.k_proj", seen), sizes.num_key_value_heads))
        values = heads(linear("self_attn.v_proj", seen), sizes.num_key_value_heads)
        shared = sizes.num_attention_heads // sizes.num_key_value_heads
        keys, values = keys.repeat_interleave(shared, 0), values.repeat_interleave(shared, 0)
        states = states + linear("self_attn.o_proj", attention(queries, keys, values, later))
        seen = norm(f"{layer}.post_attention_layernorm", states)
        inner = functional.silu(linear("mlp.gate_proj", seen)) * linear("mlp.up_proj", seen)
        states = states + linear("mlp.down_proj", inner)
    return norm("model.norm", states) @ weights["lm_head.weight"].T


def frequencies(head: int) -> torch.Tensor:
    return 1.0 / 10000 ** (torch.arange(0, head, 2, dtype=torch.float32) / head)


def heads(states: torch.Tensor, number: int) -> torch.Tensor:
    """(tokens, hidden) as (heads, tokens, numbers of a head)."""
    return states.view(len(states), number, -1).transpose(0, 1)


def attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5 + mask
    return (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)
