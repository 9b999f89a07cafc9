"""OmniLMM as a family: a picture, squeezed into a square, is one feature for each query of its resampler."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from feedback_workloads.contract import Model
from feedback_workloads.models.family import Config
from feedback_workloads.models.standard import Standard

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGE: Final = "feedback_workloads.models.omnilmm"
ARCHITECTURE: Final = "OmniLMMForConditionalGeneration"


class OmniLMM(Standard):
    """OmniLMM-12B and RLAIF-V-12B (https://arxiv.org/abs/2405.17220), converted from their first layout.

    Neither transformers nor vLLM knows the type by itself. Whoever makes a family of it makes transformers know it, and
    whoever asks what an engine is to be told, vLLM.
    """

    TYPES: ClassVar = ("feedback_omnilmm",)
    DECODER: ClassVar = "mistral"

    def __init__(self, folder: Path, config: Config, model: Model | None = None) -> None:
        super().__init__(folder, config, model)
        register_in_transformers()

    @classmethod
    def described(cls) -> str:
        """The type that it is published with."""
        return "omnilmm"

    def freeze(self, model: PreTrainedModel) -> None:
        """As all do; nor are the places on a picture trained, which follow from its size."""
        super().freeze(model)
        model.get_parameter("model.multi_modal_projector.pos_embed").requires_grad_(False)

    def engine_arguments(self) -> dict[str, Any]:
        """As all have them, for an engine that knows the architecture."""
        register_in_vllm()
        return super().engine_arguments()


def register_in_transformers() -> None:
    """Make transformers know the types of the model and of its tower, in this process."""
    importlib.import_module(f"{PACKAGE}.network")


def register_in_vllm() -> None:
    """Make vLLM know the architecture, in this process.

    It is an entry point of the group `vllm.general_plugins`, which vLLM calls in every process that it starts.
    """
    from vllm import ModelRegistry

    register_in_transformers()
    ModelRegistry.register_model(ARCHITECTURE, f"{PACKAGE}.in_vllm:{ARCHITECTURE}")
