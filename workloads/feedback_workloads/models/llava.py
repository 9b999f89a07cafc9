"""LLaVA-1.5's layout: a picture is one grid of patches, and each patch one token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast


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
