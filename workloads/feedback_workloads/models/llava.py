"""LLaVA-1.5 (https://arxiv.org/abs/2310.03744): a picture is one grid of patches, and each patch one token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from PIL import Image

from feedback_workloads.models.family import Config
from feedback_workloads.models.pictures import MAX_PIXELS
from feedback_workloads.models.standard import Standard
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

TOWERS: Final = ("clip_vision_model", "siglip_vision_model")
"""Vision towers as config.json names them, whose weights vLLM expects below `vision_model.`."""

FLAT_TOWER: Final = re.compile(r"^vision_tower\.(?!vision_model\.)")

MAX_PADDED_PIXELS: Final = 4 * MAX_PIXELS
"""A larger square is not padded to: a strip of 1 x 16 million pixels must not ask for a terabyte."""


class Llava(Standard):
    """LLaVA-1.5, and models of its layout. Others of the same type, with Pixtral's tower, are none."""

    TYPES: ClassVar = ("llava",)
    DECODER: ClassVar = "llama"

    @classmethod
    def recognises(cls, config: Config) -> bool:
        """Whether config.json names the type and one of `TOWERS`."""
        tower = (config.get("vision_config") or {}).get("model_type", TOWERS[0])
        return super().recognises(config) and tower in TOWERS

    @classmethod
    def described(cls) -> str:
        """The type and the towers."""
        return f"{super().described()} with {' or '.join(TOWERS)}"

    def picture(self, data: bytes) -> Image.Image:
        """Where the processor would crop a picture to a square, it is padded to one, with the processor's mean colour.

        Else what is at its edges would be lost (section 3 of the paper). Raises BadRow.
        """
        picture = super().picture(data)
        images, said = self.processor.image_processor, self.model.processor_kwargs
        crops = said.get("do_center_crop", getattr(images, "do_center_crop", False))
        if not crops or picture.width == picture.height:
            return picture
        side = max(picture.size)
        if side * side > MAX_PADDED_PIXELS:
            raise BadRow("picture-too-large", f"{picture.width} x {picture.height} pixels, too long to pad to a square")
        mean = tuple(int(255 * value) for value in said.get("image_mean", images.image_mean))
        square = Image.new("RGB", (side, side), mean)
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square

    def saved_name(self, name: str) -> str:
        """transformers 5 saves a tower that was built from a configuration without `vision_model.`, and reads both."""
        return FLAT_TOWER.sub("vision_tower.vision_model.", name)


def new_processor(tokenizer: PreTrainedTokenizerFast, side: int, patch: int, **pictures: Any) -> LlavaProcessor:
    """The processor of a model with CLIP's tower, for pictures of side x side pixels in patches of patch x patch.

    `pictures` are further settings of CLIPImageProcessor. The chat template is the tokenizer's.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor

    crop = {"height": side, "width": side}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop, **pictures),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which the strategy "default" takes off again
        chat_template=tokenizer.chat_template,
    )
