"""InternVL in Hugging Face's layout: tiles of a picture, between a token that begins and one that ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from feedback_workloads.models.standard import Standard

if TYPE_CHECKING:
    from PIL import Image


class InternVL(Standard):
    """InternVL2.5 and later as `-hf` (https://arxiv.org/abs/2412.05271); its first layout has code of its own."""

    TYPES: ClassVar = ("internvl",)
    DECODER: ClassVar = "qwen2"
    SEVERAL_PICTURES: ClassVar = True

    def _expansion(self, picture: Image.Image) -> list[int]:
        """One token for each feature, and two around them."""
        begin, end = self.processor.start_image_token_id, self.processor.end_image_token_id
        return [begin, *[self.image_token_id] * (self.image_tokens(picture) - 2), end]
