"""LLaVA-OneVision: tiles as LLaVA-NeXT has them, and where they are many, their features are thinned out."""

from __future__ import annotations

from typing import ClassVar

from feedback_workloads.models.family import Capability
from feedback_workloads.models.llava_next import LlavaNext


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision (https://arxiv.org/abs/2408.03326) as `-hf`. vLLM loads no adapters for it.

    It was trained on several pictures, which transformers shows it without tiles; vLLM 0.32 shows each as if it were
    alone. They do not compute one model, so it takes one picture here.
    """

    TYPES: ClassVar = ("llava_onevision",)
    DECODER: ClassVar = "qwen2"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Those of its decoder, but for adapters: vLLM 0.32 switches none on for this architecture."""
        return super().capabilities - {"lora"}
