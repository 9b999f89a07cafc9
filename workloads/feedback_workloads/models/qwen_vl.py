"""Qwen2.5-VL and Qwen3-VL: pictures of any size, and positions of three coordinates: time, height and width."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from feedback_workloads.models.family import Features
from feedback_workloads.models.standard import Standard

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Qwen25VL(Standard):
    """Qwen2.5-VL (https://arxiv.org/abs/2502.13923). Its projector is the merger of patches at the tower's end."""

    TYPES: ClassVar = ("qwen2_5_vl",)
    DECODER: ClassVar = "qwen2_5_vl_text"
    PROJECTORS: ClassVar = ("merger",)
    SEVERAL_PICTURES: ClassVar = True

    def positions(
        self, backbone: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, features: Features
    ) -> torch.Tensor:
        """The model's own, shape (3, rows, tokens): the patches of a picture stand beside each other in a grid."""
        found: torch.Tensor = backbone.get_rope_index(
            input_ids,
            mm_token_type_ids=(input_ids == self.image_token_id).int(),
            image_grid_thw=features["image_grid_thw"],
            attention_mask=attention_mask,
        )[0]
        return found


class Qwen3VL(Qwen25VL):
    """Qwen3-VL, whose tower hands features of its middle layers to the decoder as well, each by a merger of its own."""

    TYPES: ClassVar = ("qwen3_vl",)
    DECODER: ClassVar = "qwen3_vl_text"
    PROJECTORS: ClassVar = ("merger", "deepstack_merger_list")
