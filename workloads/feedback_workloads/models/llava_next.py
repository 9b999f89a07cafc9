"""LLaVA-NeXT: beside the whole picture, tiles of it, as many as its shape asks for; each row of patches has an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from feedback_workloads.models.family import Features
from feedback_workloads.models.llava import Llava
from feedback_workloads.models.pictures import load_picture
from feedback_workloads.models.standard import filled_up

if TYPE_CHECKING:
    from PIL import Image


class LlavaNext(Llava):
    """LLaVA-NeXT (v1.6) with any decoder: https://llava-vl.github.io/blog/2024-01-30-llava-next/."""

    TYPES: ClassVar = ("llava_next",)

    def picture(self, data: bytes) -> Image.Image:
        """The picture in its own shape: padded, it would be laid on another grid of tiles, half of them blank."""
        return load_picture(data)

    def collate(self, pictures: Sequence[Features]) -> Features:
        """`pixel_values` (pictures, tiles, channels, height, width), filled up to the most tiles; the model knows how
        many are real from `image_sizes` (pictures, 2), heights and widths before all resizing.
        """
        most = max(one["pixel_values"].shape[1] for one in pictures)
        return super().collate([{**one, "pixel_values": filled_up(one["pixel_values"], most)} for one in pictures])
