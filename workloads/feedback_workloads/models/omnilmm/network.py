"""OmniLMM for transformers: EVA-02's tower, a perceiver that sums a picture up in a few features, a language model.

It computes what the published code computes; modules bear the names that their weights have there. Facts are from
https://github.com/RLHF-V/RLAIF-V (`omnilmm/model/omnilmm.py`, `resampler.py`) and from timm 0.9.10, whose
`eva02_enormous_patch14_clip_224` the tower is (`timm/models/eva.py`, https://arxiv.org/abs/2303.11331).

Importing this module makes transformers know both types.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

EPSILON = 1e-6
"""Of every norm of the tower and of the resampler."""


@strict
class Eva02Config(PreTrainedConfig):
    """Sizes of the tower; those of the published one unless told otherwise.

    Positions were learned for a grid of `position_grid` x `position_grid` patches, and are stretched over that of a
    picture of `image_size` x `image_size` pixels.
    """

    model_type = "feedback_eva02"
    base_config_key = "vision_config"

    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_hidden_layers: int = 63
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    position_grid: int = 16


@strict
class OmniLMMConfig(LlavaConfig):
    """LLaVA's, whose projector is a resampler with `projector_heads`; a picture has `image_seq_length` features."""

    model_type = "feedback_omnilmm"

    image_seq_length: int = 64
    projector_heads: int = 32


def stretched(positions: torch.Tensor, side: int, *, antialias: bool) -> torch.Tensor:
    """What a square grid has at each place, (places, numbers), for a grid of side x side: bicubic, in float32."""
    before = math.isqrt(len(positions))
    if before == side:
        return positions
    grid = positions.float().view(1, before, before, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=antialias)
    return grid[0].flatten(1).T.to(positions.dtype)


# ── the tower ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Eva02Attention(nn.Module):
    """Every patch looks at every patch; queries and values have a bias, keys none."""

    def __init__(self, config: Eva02Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows, tokens, hidden = states.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        three = functional.linear(states, self.qkv.weight, bias).view(rows, tokens, 3, self.heads, -1)
        queries, keys, values = three.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        return self.proj(seen.transpose(1, 2).reshape(rows, tokens, hidden))


class Eva02Mlp(nn.Module):
    """Two linear layers and a GELU."""

    def __init__(self, config: Eva02Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(states)))


class Eva02Block(nn.Module):
    """Attention and MLP, whose results are normed before they are added."""

    def __init__(self, config: Eva02Config) -> None:
        super().__init__()
        self.attn = Eva02Attention(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.mlp = Eva02Mlp(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.norm1(self.attn(states))
        return states + self.norm2(self.mlp(states))


class Eva02Patches(nn.Module):
    """A linear layer from the pixels of a patch."""

    def __init__(self, config: Eva02Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Eva02Model(PreTrainedModel):
    """EVA-02 as CLIP's picture side, with a token for the whole picture before those of the patches."""

    config: Eva02Config
    config_class = Eva02Config
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True

    def __init__(self, config: Eva02Config) -> None:
        super().__init__(config)
        places = 1 + config.position_grid**2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, places, config.hidden_size))
        self.patch_embed = Eva02Patches(config)
        self.blocks = nn.ModuleList(Eva02Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The features of the patches of pictures (pictures, 3, side, side), shape (pictures, patches, hidden)."""
        patches = self.patch_embed(pixel_values.to(self.pos_embed.dtype))
        side = self.config.image_size // self.config.patch_size
        whole, places = self.pos_embed[0, :1], stretched(self.pos_embed[0, 1:], side, antialias=True)
        states = torch.cat([(self.cls_token + whole).expand(len(patches), -1, -1), patches + places], dim=1)
        for block in self.blocks:
            states = block(states)
        return self.norm(states)[:, 1:]


# ── the resampler ────────────────────────────────────────────────────────────────────────────────────────────────────


class Resampler(nn.Module):
    """So many learned queries look at all patches once; the places of both on the picture are added (Perceiver,
    https://arxiv.org/abs/2103.03206, as in Qwen-VL, https://arxiv.org/abs/2308.12966).

    `pos_embed`, sines and cosines of columns and rows, follows from the sizes; it counts as it was saved, and is never
    trained.
    """

    def __init__(self, config: OmniLMMConfig) -> None:
        super().__init__()
        hidden, queries = config.text_config.hidden_size, config.image_seq_length
        self.pos_embed = nn.Parameter(torch.zeros(queries, hidden), requires_grad=False)
        self.query = nn.Parameter(torch.zeros(queries, hidden))
        self.kv_proj = nn.Linear(config.vision_config.hidden_size, hidden, bias=False)
        self.attn = nn.MultiheadAttention(hidden, config.projector_heads, batch_first=True)
        self.ln_q = nn.LayerNorm(hidden, eps=EPSILON)
        self.ln_kv = nn.LayerNorm(hidden, eps=EPSILON)
        self.ln_post = nn.LayerNorm(hidden, eps=EPSILON)
        self.proj = nn.Parameter(torch.zeros(hidden, hidden))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(pictures, patches, the tower's numbers) as (pictures, queries, the language model's numbers)."""
        values = self.ln_kv(self.kv_proj(features))
        keys = values + stretched(self.pos_embed, math.isqrt(features.shape[1]), antialias=False)
        queries = (self.ln_q(self.query) + self.pos_embed).expand(len(features), -1, -1)
        found, _ = self.attn(queries, keys, values, need_weights=False)
        return self.ln_post(found) @ self.proj


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


class OmniLMMModel(LlavaModel):
    """Without lm_head: LLaVA with another projector, which takes all that the tower gives."""

    config: OmniLMMConfig
    config_class = OmniLMMConfig

    def __init__(self, config: OmniLMMConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = Resampler(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Those that take the places of a picture's tokens, as `pooler_output`: one (tokens, hidden) a picture."""
        found = self.multi_modal_projector(self.vision_tower(pixel_values))
        return BaseModelOutputWithPooling(pooler_output=list(found))


class OmniLMMForConditionalGeneration(LlavaForConditionalGeneration):
    """The whole model."""

    config: OmniLMMConfig
    config_class = OmniLMMConfig

    def __init__(self, config: OmniLMMConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = OmniLMMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


for _config, _model, _auto in (
    (Eva02Config, Eva02Model, AutoModel),
    (OmniLMMConfig, OmniLMMForConditionalGeneration, AutoModelForImageTextToText),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _auto.register(_config, _model, exist_ok=True)
