"""One tiny model of random weights a family: architecture, tokenizer, processor and template as published models have.

Shapes are small, names are not. Where they were looked up, in transformers 5.19: `models/FAMILY/configuration_*.py` for
types, parts and defaults, `processing_*.py` for special tokens and what a picture becomes, `modeling_*.py` for weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.models.checkpoint import rename_weights
from feedback_workloads.models.families import name_weights
from feedback_workloads.models.llava import FLAT_TOWER, new_processor
from feedback_workloads.models.llava_llama import convert
from feedback_workloads.models.omnilmm import conversion
from tests.integration.models import byte_tokenizer, llava_next_processor, tiny_llava, tiny_llava_with_siglip
from tests.models import original_llava, original_omnilmm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIDE: Final = 28
"""Pixels of a tile, where pictures are cut into tiles."""

CHATML: Final = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}"
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{picture}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
"""How Qwen and InternVL lay out a chat; `picture` is what stands for one."""


OF_LANGUAGE: Final = ("language_model", "text_model", "lm_head")
"""What names of a language model's weights have in them."""


@dataclass(frozen=True)
class Tiny:
    """How a family's tiny model is made, and which of its parameters training moves.

    `trained` are beginnings of their names as transformers has them, `language` is that of the decoder's. With
    `one_size`, pictures of any size have as many tokens; `one_row` tells whether the answers of a pair share one, and
    `lora` whether it is trained as an adapter, too, and `several` whether a prompt may show more than one picture.
    """

    build: Callable[[Path], Path]
    trained: tuple[str, ...]
    one_size: bool = False
    one_row: bool = True
    lora: bool = True
    several: bool = False
    language: str = "model.language_model."


def decoder(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """What configurations of decoders have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def save(model: PreTrainedModel, processor: Any, folder: Path) -> Path:
    """Save a model that says something else to each picture, with all that belongs to it; returns `folder`."""
    import torch

    for name, parameter in model.named_parameters():  # the defaults are so small that all answers look alike
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15 if any(part in name for part in OF_LANGUAGE) else 0.1)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    name_weights(folder)
    return folder


def llava_llama(folder: Path) -> Path:
    """LLaVA-1.5 in the layout of its first publication, converted; with Llama's own kind of tokenizer."""
    original = original_llava.write(folder.parent / "published", "safetensors", files=1, unfrozen=True)
    folder.mkdir()
    convert(original.folder, original.folder.parent / "tower", folder, "llava_llama")
    return folder


def llava_next(folder: Path, text: str = "mistral") -> Path:
    """`LlavaNextForConditionalGeneration`, with CLIP's tower and the five grids of v1.6."""
    import torch
    from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    tokenizer = byte_tokenizer()
    processor = llava_next_processor(tokenizer, SIDE)
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
            patch_size=14,
        ).to_dict(),
        text_config={"model_type": text, "sliding_window": None, **decoder(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
        image_seq_length=(SIDE // 14) ** 2,
    )  # fmt: skip
    return save(LlavaNextForConditionalGeneration(config), processor, folder)


def llava_onevision(folder: Path) -> Path:
    """`LlavaOnevisionForConditionalGeneration`, with SigLIP's tower without its head, and the 36 grids of up to 6 x 6.

    What is published as `llava-hf/llava-onevision-qwen2-7b-ov-hf` was looked up in the script that made it,
    transformers' `convert_llava_onevision_weights_to_hf.py`, and in the defaults of its configuration.
    """
    import torch
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer(
        pad="<|endoftext|>",
        bos=None,
        eos="<|im_end|>",
        named={"image_token": "<image>", "video_token": "<video>", "im_start": "<|im_start|>"},
        chat_template=CHATML.format(picture="<image>\n"),
    )
    grids = [[rows * SIDE, columns * SIDE] for rows in range(1, 7) for columns in range(1, 7)]
    side = {"height": SIDE, "width": SIDE}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=grids),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=(SIDE // 14) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
            patch_size=14, vision_use_head=False,
        ).to_dict(),
        text_config={"model_type": "qwen2", **decoder(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
    )  # fmt: skip
    return save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


QWEN: Final = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "im_start": "<|im_start|>",
}


def qwen_tokenizer() -> Any:
    template = CHATML.format(picture="<|vision_start|><|image_pad|><|vision_end|>")
    return byte_tokenizer(pad="<|endoftext|>", bos=None, eos="<|im_end|>", named=QWEN, chat_template=template)


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """The special tokens that a configuration names."""
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    return {f"{name}_id": tokenizer.convert_tokens_to_ids(QWEN[name]) for name in names}


def qwen2_5_vl(folder: Path) -> Path:
    """`Qwen2_5_VLForConditionalGeneration`, with windows in the tower and one block that sees all."""
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = qwen_tokenizer()
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64,
            "window_size": 56, "fullatt_block_indexes": [1],
        },
        text_config=decoder(
            tokenizer, rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
        ),
        **qwen_ids(tokenizer),
    )  # fmt: skip
    return save(Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def qwen3_vl(folder: Path) -> Path:
    """`Qwen3VLForConditionalGeneration`, with one layer of the tower that reaches the decoder directly.

    lm_head is the embedding, as in the models of 2B and 4B.
    """
    import torch
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = qwen_tokenizer()
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 64 * 64, "longest_edge": 128 * 128}, patch_size=16),
        tokenizer,
        Qwen3VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        vision_config={
            "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [1],
        },
        text_config=decoder(tokenizer, head_dim=32, rope_parameters=rope, tie_word_embeddings=True),
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )  # fmt: skip
    return save(Qwen3VLForConditionalGeneration(config), processor, folder)


INTERNVL: Final = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
    "im_start": "<|im_start|>",
}


def internvl_tokenizer() -> Any:
    return byte_tokenizer(
        pad="<|endoftext|>",
        bos=None,
        eos="<|im_end|>",
        named=INTERNVL,
        chat_template=CHATML.format(picture="<IMG_CONTEXT>\n"),
    )


def internvl(folder: Path, text: str = "qwen2") -> Path:
    """`InternVLForConditionalGeneration` in Hugging Face's layout, with up to four tiles and the whole picture."""
    import torch
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = internvl_tokenizer()
    side = 2 * SIDE
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": side, "width": side}, crop_to_patches=True, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(),
        image_seq_length=(side // 14) ** 2 // 4,
        chat_template=tokenizer.chat_template,
    )
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": [side, side],
        },
        text_config={"model_type": text, **decoder(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=processor.image_seq_length,
        tie_word_embeddings=False,
    )  # fmt: skip
    return save(InternVLForConditionalGeneration(config), processor, folder)


SMOLVLM_TILES: Final = 4  # a side at most

SMOLVLM: Final = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    **{
        f"row_{row}_col_{column}": f"<row_{row}_col_{column}>"
        for row in range(1, SMOLVLM_TILES + 1)
        for column in range(1, SMOLVLM_TILES + 1)
    },
}

SMOLVLM_TEMPLATE: Final = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %} {{ message['content'] }}{% else %}"
    "{% if message['content'][0]['type'] != 'image' %} {% endif %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def smolvlm(folder: Path) -> Path:
    """`SmolVLMForConditionalGeneration`, with up to 4 x 4 tiles and the whole picture.

    What is published as `HuggingFaceTB/SmolVLM2-500M-Video-Instruct` was looked up in its preprocessor_config.json and
    generation_config.json, and in the defaults of transformers' configuration and processor.
    """
    import torch
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    tokenizer = byte_tokenizer(
        pad="<|im_end|>", bos="<|im_start|>", eos="<end_of_utterance>", named=SMOLVLM, chat_template=SMOLVLM_TEMPLATE
    )
    patch, scale = 7, 2
    tile, whole = {"longest_edge": SIDE}, {"longest_edge": SMOLVLM_TILES * SIDE}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=whole, max_image_size=tile),
        tokenizer,
        SmolVLMVideoProcessor(size=whole, max_image_size=tile),
        image_seq_len=(SIDE // patch // scale) ** 2,
        chat_template=tokenizer.chat_template,
    )
    torch.manual_seed(0)
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": patch,
        },
        text_config={"model_type": "llama", **decoder(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=scale,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save(SmolVLMForConditionalGeneration(config), processor, folder)


def omnilmm(folder: Path) -> Path:
    """OmniLMM in the layout of its first publication, converted."""
    original = original_omnilmm.write(folder.parent / "published", files=1)
    folder.mkdir()
    conversion.convert(original.folder, folder, "omnilmm")
    return folder


GEMMA3: Final = {
    "boi_token": "<start_of_image>",
    "image_token": "<image_soft_token>",
    "eoi_token": "<end_of_image>",
    "start_of_turn": "<start_of_turn>",
    **{f"newlines_{count}": count * "\n" for count in range(1, 5)},
}
"""With lines' ends as Gemma's tokenizer has them, up to four as one token; vLLM asks for these by name."""

GEMMA3_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{% endif %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma3(folder: Path) -> Path:
    """`Gemma3ForConditionalGeneration`, with SigLIP's tower, a layer with a window and one without. It is not trained.

    Looked up in transformers' configuration and processor, as `google/gemma-3-4b-it` has them.
    """
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    tokenizer = byte_tokenizer(bos="<bos>", eos="<end_of_turn>", named=GEMMA3, chat_template=GEMMA3_TEMPLATE)
    side = 2 * SIDE
    features = (side // 14 // 2) ** 2
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=features,
    )
    torch.manual_seed(0)
    config = Gemma3Config(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": side, "patch_size": 14, "vision_use_head": False,
        },
        text_config={
            **decoder(tokenizer), "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        mm_tokens_per_image=features,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    save(Gemma3ForConditionalGeneration(config), processor, folder)
    rename_weights(folder, lambda name: FLAT_TOWER.sub("vision_tower.vision_model.", name))  # as they are published
    return folder


PROJECTOR: Final = "model.multi_modal_projector."
LANGUAGE: Final = ("model.language_model.", "lm_head.")

FAMILIES: Final[Mapping[str, Tiny]] = {
    "llava": Tiny(tiny_llava, (PROJECTOR, *LANGUAGE), one_size=True),
    "llava, SigLIP": Tiny(tiny_llava_with_siglip, (PROJECTOR, *LANGUAGE), one_size=True),
    "llava_llama": Tiny(llava_llama, (PROJECTOR, *LANGUAGE), one_size=True),
    "llava_next": Tiny(llava_next, (PROJECTOR, "model.image_newline", *LANGUAGE)),
    "llava_onevision": Tiny(llava_onevision, (PROJECTOR, "model.image_newline", *LANGUAGE), lora=False),
    "qwen2_5_vl": Tiny(qwen2_5_vl, ("model.visual.merger.", *LANGUAGE), several=True),
    "qwen3_vl": Tiny(
        qwen3_vl,
        ("model.visual.merger.", "model.visual.deepstack_merger_list.", "model.language_model."),
        several=True,
    ),
    "internvl": Tiny(internvl, (PROJECTOR, *LANGUAGE), several=True),
    "smolvlm": Tiny(
        smolvlm, ("model.connector.", "model.text_model.", "lm_head."), several=True, language="model.text_model."
    ),
    "omnilmm": Tiny(
        omnilmm,
        (*(f"{PROJECTOR}{part}" for part in ("attn.", "kv_proj.", "ln_", "proj", "query")), *LANGUAGE),
        one_size=True,
    ),
}


def llava_with_lfm2(folder: Path) -> Path:
    """LLaVA's layout with LFM2's decoder, whose first layer is a convolution over time."""
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
            patch_size=14,
        ),
        text_config={
            "model_type": "lfm2", "layer_types": ["conv", "full_attention"], **decoder(tokenizer),
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // 14) ** 2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return save(LlavaForConditionalGeneration(config), new_processor(tokenizer, SIDE, 14), folder)


DECODERS: Final[Mapping[str, Tiny]] = {
    "llava_next, Qwen2": Tiny(partial(llava_next, text="qwen2"), (PROJECTOR, "model.image_newline", *LANGUAGE)),
    "internvl, Qwen3": Tiny(partial(internvl, text="qwen3"), (PROJECTOR, *LANGUAGE), several=True),
    "llava, LFM2": Tiny(llava_with_lfm2, (PROJECTOR, *LANGUAGE), one_size=True, one_row=False),
}
"""Other language models in the same families, for what the trainer does with them."""
