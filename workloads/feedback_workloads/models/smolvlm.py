"""SmolVLM2: tiles of a picture row by row, each behind a token that tells its place, and the whole picture last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from feedback_workloads.contract import Model
from feedback_workloads.models.family import Config, Features
from feedback_workloads.models.standard import Standard, filled_up

if TYPE_CHECKING:
    from PIL import Image


class SmolVLM(Standard):
    """SmolVLM2 (https://arxiv.org/abs/2504.05299). The first SmolVLM is of another type, `idefics3`."""

    TYPES: ClassVar = ("smolvlm",)
    DECODER: ClassVar = "llama"
    SEVERAL_PICTURES: ClassVar = True

    def __init__(self, folder: Path, config: Config, model: Model | None = None) -> None:
        super().__init__(folder, config, model)
        self._expansions: dict[tuple[int, int], list[int]] = {}

    @cached_property
    def _templated(self) -> Any:
        """Its tokenizer, given the template: the processor would warn of settings for videos at every chat."""
        tokenizer = self.processor.tokenizer
        tokenizer.chat_template = self.processor.chat_template
        return tokenizer

    def _count(self, picture: Image.Image) -> int:
        return len(self._expansion(picture))

    def _expansion(self, picture: Image.Image) -> list[int]:
        """What the processor writes for a picture of this size: places, marks and ends of lines among the features."""
        if picture.size not in self._expansions:
            self._expansions[picture.size] = self._processed(picture)["input_ids"][0].tolist()
        return self._expansions[picture.size]

    def collate(self, pictures: Sequence[Features]) -> Features:
        """`pixel_values` (pictures, tiles, channels, height, width) and `pixel_attention_mask` without the channels,
        filled up to the most tiles: the model leaves out those that are zero throughout.
        """
        most = max(one["pixel_values"].shape[1] for one in pictures)
        return super().collate([{name: filled_up(value, most) for name, value in one.items()} for one in pictures])
