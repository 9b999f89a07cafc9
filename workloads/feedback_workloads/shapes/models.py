"""The models of the shapes world: small LLaVAs (https://arxiv.org/abs/2310.03744)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from feedback_workloads.models.families import name_weights
from feedback_workloads.shapes.tokenizer import END, IMAGE, PAD, PATCH_PIXELS, make_processor, word_ids
from feedback_workloads.shapes.world import PICTURE_PIXELS, Scene, picture


def new_model(seed: int) -> LlavaForConditionalGeneration:
    """A model of 0.8 million parameters that knows nothing. The same seed gives the same weights."""
    ids = word_ids()
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE_PIXELS,
        patch_size=PATCH_PIXELS,
        projection_dim=64,
    )
    special = {"pad_token_id": ids[PAD], "eos_token_id": ids[END], "bos_token_id": None}
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **special,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=ids[IMAGE],
            tie_word_embeddings=False,
            **special,
        )
    )
    for name, weight in model.named_parameters():
        if "patch_embedding" in name:
            nn.init.normal_(weight, std=0.05)
        elif "position_embedding" in name:
            nn.init.normal_(weight, std=0.3)
    return model


def pixels(shown: Iterable[Scene]) -> Tensor:
    """Pictures as the saved processor makes them: float32, (scenes, 3, 48, 48), from -1 to 1."""
    drawn = np.stack([np.asarray(picture(scene), dtype=np.float32) for scene in shown])
    return torch.from_numpy(drawn.transpose(0, 3, 1, 2) / 127.5 - 1.0)


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write weights, configuration, tokenizer and processor as both transformers and vLLM load them."""
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    name_weights(folder)


def load(folder: Path) -> LlavaForConditionalGeneration:
    """Read a model that `save` wrote."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
