"""OmniLMM for vLLM: tower and resampler are those of transformers' model, the language model is vLLM's own Mistral.

Both are on every GPU as a whole: a picture passes them once, and they are a third of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder, LlavaMultiModalProcessor, LlavaProcessingInfo
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageSize
from vllm.sequence import IntermediateTensors

from feedback_workloads.models.omnilmm.network import Eva02Model, Resampler


class OmniLMMProcessingInfo(LlavaProcessingInfo):
    """As many tokens for every picture."""

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        """One for each query of the resampler."""
        return int(self.get_hf_config().image_seq_length)

    def get_image_size_with_most_features(self) -> ImageSize:
        """That of the square into which pictures are squeezed."""
        side = int(self.get_hf_config().vision_config.image_size)
        return ImageSize(width=side, height=side)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=OmniLMMProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class OmniLMMForConditionalGeneration(nn.Module, SupportsLoRA, SupportsMultiModal, SupportsPP):
    """The whole model."""

    packed_modules_mapping: Final = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper: Final = WeightsMapper(
        orig_to_new_prefix={
            "model.language_model.": "language_model.model.",
            "model.vision_tower.": "vision_tower.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_tower = Eva02Model(config.vision_config)
            self.multi_modal_projector = Resampler(config)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=["MistralForCausalLM"],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """What stands for a picture in a text."""
        return "<im_patch>" if modality == "image" else None

    def embed_multimodal(self, *, pixel_values: torch.Tensor | None = None, **_: object) -> MultiModalEmbeddings:
        """The features of pictures (pictures, 3, side, side): (pictures, tokens, hidden)."""
        if pixel_values is None:
            return []
        found: torch.Tensor = self.multi_modal_projector(self.vision_tower(pixel_values))
        return found

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor | IntermediateTensors:
        """The states after the last layer, or after the last one of this rank."""
        embeds = inputs_embeds if intermediate_tensors is None else None
        found: torch.Tensor = self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=embeds
        )
        return found

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Of the next token."""
        found: torch.Tensor | None = self.language_model.compute_logits(hidden_states)
        return found

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Take the weights as transformers names them; returns the names of those that were found."""
        found: set[str] = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        return found

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which part is which."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="multi_modal_projector", tower_model="vision_tower"
        )
